package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// The operator itself, with the account and the rights that dist/install.yaml gives it, shows its metrics to whom it should and to nobody else.
func TestMetricsAccess(t *testing.T) {
	s := beginAlone(t)
	url := s.installed()
	stranger := s.account("stranger")
	reader := s.account("reader")
	s.mayScrape(reader)
	for _, who := range []struct {
		name, token string
		want        int
	}{
		{"without a token", "", http.StatusUnauthorized},
		// The library's answer when TokenReview finds fault with the token itself.
		{"with a token of nobody", "nobody", http.StatusInternalServerError},
		{"without the role", s.token(stranger), http.StatusForbidden},
		{"with the role", s.token(reader), http.StatusOK},
	} {
		fixture.Eventually(t, limit, "metrics "+who.name, func() error {
			code, body, err := ask(s.ctx, url, who.token)
			if err != nil {
				return err
			}
			if code != who.want {
				return fmt.Errorf("answer %d, want %d: %s", code, who.want, body)
			}
			if shown := strings.Contains(body, "snakepit_operator_"); shown != (who.want == http.StatusOK) {
				return fmt.Errorf("with answer %d the metrics are shown: %v", code, shown)
			}
			return nil
		})
	}
}

// The operator's program without any right: it is not Ready, its log says what to do, and nobody can scrape it. It is Ready when it has its role.
func TestReadinessWithoutRights(t *testing.T) {
	s := beginAlone(t)
	s.system()
	metrics, probes := s.freeAddress(), s.freeAddress()
	account := s.account("penniless")
	program := s.program(s.token(account), "--metrics-bind-address="+metrics, "--health-probe-bind-address="+probes)
	readyz := func(want int) {
		t.Helper()
		fixture.Eventually(t, limit, fmt.Sprintf("/readyz answers %d", want), func() error {
			code, body, err := ask(s.ctx, "http://"+probes+"/readyz", "")
			if err == nil && code != want {
				err = fmt.Errorf("answer %d: %s", code, body)
			}
			return err
		})
	}
	// Not for a moment, either: a rolling update would go on.
	fixture.Eventually(t, limit, "its log says what it lacks", func() error {
		code, _, err := ask(s.ctx, "http://"+probes+"/readyz", "")
		if err == nil && code == http.StatusOK {
			t.Fatal("it is Ready without rights")
		}
		text, err := os.ReadFile(program.Log)
		for _, part := range []string{"lacks rights", "list workergroups.snakepit.dev", "kubectl apply -f dist/install.yaml"} {
			if err == nil && !strings.Contains(string(text), part) {
				err = fmt.Errorf("it does not say %q:\n%s", part, text)
			}
		}
		return err
	})
	readyz(http.StatusInternalServerError)
	code, _, err := ask(s.ctx, "https://"+metrics+"/metrics", s.token(account))
	if err != nil || code != http.StatusInternalServerError {
		t.Errorf("metrics are answered %d (%v), want 500", code, err)
	}
	s.bind(account, "snakepit-operator")
	readyz(http.StatusOK)
}

// installed starts the operator's program with the account and rights of dist/install.yaml, and gives the address of its metrics.
func (s *scene) installed() string {
	s.t.Helper()
	s.system()
	operator := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "snakepit-system", Name: "snakepit-operator"}}
	address := s.freeAddress()
	s.program(s.token(operator), "--metrics-bind-address="+address)
	return "https://" + address + "/metrics"
}

// system makes the accounts and rights of dist/install.yaml.
func (s *scene) system() {
	s.t.Helper()
	s.must(ensureSystem(s.ctx))
	for _, obj := range distObjects(s.t, filepath.Join(fixture.Root(), "dist", "install.yaml")) {
		switch obj.GetKind() {
		case "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding":
			// Another test may have brought it; nothing of it is in anybody's way.
			if err := server.Client.Create(s.ctx, obj); !apierrors.IsAlreadyExists(err) {
				s.must(err)
			}
		}
	}
}

// mayScrape gives an account the right that the how-to guide says a scraper needs.
func (s *scene) mayScrape(reader *corev1.ServiceAccount) {
	s.t.Helper()
	s.bind(reader, "snakepit-metrics-reader")
}

// bind gives an account of the scene's a ClusterRole, until the test ends.
func (s *scene) bind(account *corev1.ServiceAccount, role string) {
	s.t.Helper()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: s.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.namespace, Name: account.Name}},
	}
	s.must(server.Client.Create(s.ctx, binding))
	s.t.Cleanup(func() {
		if err := server.Client.Delete(context.WithoutCancel(s.ctx), binding); err != nil {
			s.t.Error(err)
		}
	})
}

func (s *scene) account(name string) *corev1.ServiceAccount {
	s.t.Helper()
	a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
	s.must(server.Client.Create(s.ctx, a))
	return a
}

func (s *scene) token(account *corev1.ServiceAccount) string {
	s.t.Helper()
	request := &authenticationv1.TokenRequest{}
	s.must(server.Client.SubResource("token").Create(s.ctx, account, request))
	return request.Status.Token
}

// program starts the operator's program with a token.
func (s *scene) program(token string, args ...string) *fixture.Program {
	s.t.Helper()
	dir := s.t.TempDir()
	binary, kubeconfig := filepath.Join(dir, "manager"), filepath.Join(dir, "kubeconfig")
	s.must(fixture.BuildOperator(fixture.Root(), binary))
	config := api.NewConfig()
	config.Clusters["it"] = &api.Cluster{Server: server.Config.Host, CertificateAuthorityData: server.Config.CAData}
	config.AuthInfos["operator"] = &api.AuthInfo{Token: token}
	config.Contexts["it"] = &api.Context{Cluster: "it", AuthInfo: "operator"}
	config.CurrentContext = "it"
	s.must(clientcmd.WriteToFile(*config, kubeconfig))
	program, err := fixture.StartOperatorProgram(binary, dir, "operator", kubeconfig, s.namespace, args...)
	s.must(err)
	s.t.Cleanup(program.Kill)
	return program
}

// freeAddress has a port that is free now; neither program says which one it would choose.
func (s *scene) freeAddress() string {
	s.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	address := free.Addr().String()
	s.must(free.Close())
	return address
}

func ask(ctx context.Context, url, token string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} // it makes its own certificate
	answer, err := (&http.Client{Transport: transport, Timeout: limit}).Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close() //nolint:errcheck // it is only read
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	return answer.StatusCode, string(body), err
}

// ensureSystem makes the operator's namespace, which tests of this package share.
func ensureSystem(ctx context.Context) error {
	return client.IgnoreAlreadyExists(server.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "snakepit-system"}}))
}
