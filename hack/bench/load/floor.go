package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
)

// ServeFloor echoes every message of every method by grpc-go alone until ctx ends: no server of ours or anybody's in Go is faster, so it shows
// what the client and the transport can do on this machine. It calls listening once.
func ServeFloor(ctx context.Context, listening func(net.Addr)) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		for {
			message := frame{keep: true}
			if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := stream.SendMsg(&message); err != nil {
				return err
			}
		}
	}))
	listening(listener.Addr())
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("floor server: %w", err)
	}
	return nil
}
