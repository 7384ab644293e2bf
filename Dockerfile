# The operator and the router in one image: the operator starts router pods from its own image.
# hack/images/build.sh compiles the two static binaries on the host first, so that this builds
# anywhere, offline, and with nothing in it but them.
FROM scratch
LABEL org.opencontainers.image.title="Snakepit for Kubernetes: operator and router" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/snakepit-k8s/snakepit"
COPY bin/manager bin/router /
USER 65532:65532
ENTRYPOINT ["/manager"]
