// Package config is the folder of the manifests; its test holds what is installed within limits that no reviewer has to remember.
package config
