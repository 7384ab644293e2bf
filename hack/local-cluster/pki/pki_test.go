package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newAuthority(t *testing.T) (*Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := NewAuthority(dir, "test", now)
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

func TestIssuedCertificatesAreGoodForTheirNamesAlone(t *testing.T) {
	a, dir := newAuthority(t)
	subject := Subject{CommonName: "kube-apiserver", Organizations: []string{"o"}, DNSNames: []string{"kubernetes"}, IPs: []net.IP{net.IPv4(10, 1, 0, 2)}}
	if err := a.Issue("apiserver", subject); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "apiserver.crt"), filepath.Join(dir, "apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil || !pool.AppendCertsFromPEM(authority) {
		t.Fatalf("ca.crt: %v", err)
	}
	for name, good := range map[string]bool{"kubernetes": true, "10.1.0.2": true, "other": false, "10.1.0.3": false} {
		_, err := certificate.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now})
		if (err == nil) != good {
			t.Errorf("%s: %v; want good: %v", name, err, good)
		}
	}
	other, _ := newAuthority(t)
	foreign := x509.NewCertPool()
	foreign.AddCert(other.certificate)
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: foreign, CurrentTime: now}); err == nil {
		t.Error("another authority takes the certificate for its own")
	}
}

func TestKeysAreForTheirOwnerOnly(t *testing.T) {
	a, dir := newAuthority(t)
	if err := a.IssueKeyPair("service-account"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.key", "service-account.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info.Mode(), err)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "service-account.pub"))
	if err != nil || !strings.Contains(string(public), "BEGIN PUBLIC KEY") {
		t.Errorf("service-account.pub: %v: %s", err, public)
	}
}

func TestKubeconfigNeedsNoOtherFile(t *testing.T) {
	a, dir := newAuthority(t)
	if err := a.Issue("admin", Subject{CommonName: "admin"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kubeconfig")
	if err := a.WriteKubeconfig(path, "spk-1", "https://10.1.0.2:6443", "admin"); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"ca.crt", "admin.crt", "admin.key"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(content), base64.StdEncoding.EncodeToString(data)) {
			t.Errorf("%s is not in the kubeconfig (%v)", file, err)
		}
	}
	if !strings.Contains(string(content), "server: https://10.1.0.2:6443\n") || !strings.Contains(string(content), "current-context: spk-1\n") {
		t.Errorf("server or context are missing:\n%s", content)
	}
	if err := a.WriteKubeconfig(path, "spk-1", "https://x", "nobody"); err == nil {
		t.Error("a kubeconfig for a certificate that was never issued was written")
	}
}
