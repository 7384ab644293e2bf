package apiserver

import (
	"testing"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func TestCreateAndDelete(t *testing.T) {
	s := begin(t)
	pool := s.pool("demo", 2)
	s.ready(pool)
	if len(pool.Finalizers) != 1 || pool.Finalizers[0] != v1alpha1.Finalizer {
		t.Errorf("finalizers %v", pool.Finalizers)
	}
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
}
