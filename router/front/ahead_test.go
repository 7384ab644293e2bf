package front

import (
	"context"
	"testing"

	"google.golang.org/grpc"
)

// A large request is read before its call is admitted as long as an eighth of the budget has room for it; any other is read once it has a worker.
func TestLargeRequestsAreReadAheadWithinTheirPartOfTheBudget(t *testing.T) {
	for _, c := range []struct {
		size    int
		options []grpc.CallOption
		ready   bool
	}{
		{size: 64 << 10, ready: true},
		{size: 1 << 20, ready: true},
		{size: 1<<20 + 1},
		{size: 3 << 20},
		{size: 256 << 10, options: []grpc.CallOption{grpc.UseCompressor("gzip")}}, // how much it will be is not known
	} {
		pool := &fakePool{limit: 4 << 20, messages: [][]byte{nil}}
		server, conn := serve(t, pool, MessageBudget(8<<20))
		for range 3 { // what was taken is given back
			var got []byte
			request := make([]byte, c.size)
			for i := range request { // so that compression does not make it a small one
				request[i] = byte(i * i >> 8)
			}
			if err := conn.Invoke(context.Background(), "/demo.Echo/Unary", request, &got, append(c.options, raw)...); err != nil {
				t.Fatalf("%d bytes: %v", c.size, err)
			}
			if pool.ahead != c.ready || len(pool.request) != c.size {
				t.Errorf("%d bytes: read ahead %v, %d bytes came", c.size, pool.ahead, len(pool.request))
			}
		}
		server.Shutdown(context.Background()) // waits for the handlers
		if ahead, all := server.ahead.used.Load(), server.budget.used.Load(); ahead != 0 || all != 0 {
			t.Errorf("%d bytes: %d and %d bytes are still taken", c.size, ahead, all)
		}
	}
}
