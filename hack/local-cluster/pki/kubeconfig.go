package pki

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
)

// WriteKubeconfig writes a kubeconfig with everything inline, so that the file
// can be copied: context and cluster carry the cluster's name, the user is the
// subject of NAME.crt.
func (a *Authority) WriteKubeconfig(path, cluster, server, name string) error {
	data := map[string]string{}
	for _, file := range []string{"ca.crt", name + ".crt", name + ".key"} {
		content, err := os.ReadFile(filepath.Join(a.dir, file))
		if err != nil {
			return err
		}
		data[file] = base64.StdEncoding.EncodeToString(content)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[4]s
users:
- name: %[3]s
  user:
    client-certificate-data: %[5]s
    client-key-data: %[6]s
contexts:
- name: %[1]s
  context:
    cluster: %[1]s
    user: %[3]s
current-context: %[1]s
`, cluster, server, name, data["ca.crt"], data[name+".crt"], data[name+".key"])
	return os.WriteFile(path, []byte(text), 0o600)
}
