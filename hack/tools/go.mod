// The developer tools, pinned apart from the product's module so that they never choose its versions.
module github.com/snakepit-k8s/snakepit/hack/tools

go 1.26.0
