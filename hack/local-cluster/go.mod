module github.com/snakepit-k8s/snakepit/hack/local-cluster

go 1.26.0
