// Registers a service and watches what happens to it until it is deleted, over whatever interrupts the connection: with connect-go.
//
//	STEWARD_TOKEN=... go run . http://HOST:PORT NAME [connect|grpc|grpc-web]
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	stewardv1 "steward.example/connect-client/gen/steward/v1"
	"steward.example/connect-client/gen/steward/v1/stewardv1connect"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: STEWARD_TOKEN=... go run . http://HOST:PORT NAME [connect|grpc|grpc-web]")
	}
	address, name, protocol := os.Args[1], os.Args[2], "connect"
	if len(os.Args) > 3 {
		protocol = os.Args[3]
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	options := []connect.ClientOption{connect.WithInterceptors(bearer(os.Getenv("STEWARD_TOKEN")))}
	switch protocol {
	case "grpc":
		options = append(options, connect.WithGRPC())
	case "grpc-web":
		options = append(options, connect.WithGRPCWeb())
	}
	if err := run(ctx, cleartextHTTP2(), address, name, options); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, client connect.HTTPClient, address, name string, options []connect.ClientOption) error {
	registry := stewardv1connect.NewServiceRegistryClient(client, address, options...)
	request := &stewardv1.CreateRequest{
		ServiceId: name,
		Service: &stewardv1.Service{Spec: &stewardv1.ServiceSpec{
			Url:  "http://127.0.0.1:8080",
			Kind: &stewardv1.ServiceSpec_External{External: &stewardv1.ExternalSpec{}},
		}},
	}
	created, err := registry.Create(ctx, connect.NewRequest(request))
	if err != nil {
		return err
	}
	fmt.Println("created", created.Msg.Service.Name)
	_, err = registry.Create(ctx, connect.NewRequest(request))
	fmt.Println("refused", reasonOf(err))
	// One before: so that the watch begins with what we did ourselves.
	after := &stewardv1.Cursor{Revision: created.Msg.Revision - 1}
	return watch(ctx, stewardv1connect.NewSupervisorClient(client, address, options...), name, after)
}

// watch ends when the service is deleted. What passes by itself it tries again, after the last cursor: nothing is missed, nothing comes twice.
func watch(ctx context.Context, supervisor stewardv1connect.SupervisorClient, name string, after *stewardv1.Cursor) error {
	for {
		deleted, err := follow(ctx, supervisor, name, &after)
		if deleted {
			return nil
		}
		// A connection that breaks is no answer of Steward's: whatever the code, such an error has no details.
		if reasonOf(err) != "" && connect.CodeOf(err) != connect.CodeUnavailable {
			return err
		}
		fmt.Println("interrupted")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func follow(ctx context.Context, supervisor stewardv1connect.SupervisorClient, name string, after **stewardv1.Cursor) (bool, error) {
	types := []stewardv1.EventType{
		stewardv1.EventType_EVENT_TYPE_SERVICE_CREATED,
		stewardv1.EventType_EVENT_TYPE_SERVICE_UPDATED,
		stewardv1.EventType_EVENT_TYPE_SERVICE_DELETED,
	}
	filter := fmt.Sprintf("service = %q", name)
	stream, err := supervisor.WatchEvents(ctx, connect.NewRequest(&stewardv1.WatchEventsRequest{After: *after, Filter: filter, Types: types}))
	if err != nil {
		return false, err
	}
	defer stream.Close()
	for stream.Receive() {
		*after = stream.Msg().Cursor
		for _, event := range stream.Msg().GetBatch().GetEvents() {
			fmt.Println("seen", event.Type)
			if event.Type == stewardv1.EventType_EVENT_TYPE_SERVICE_DELETED {
				return true, nil
			}
		}
	}
	return false, stream.Err()
}

// reasonOf tells the machine-readable cause of an error, see error.proto; it is empty for an error that does not come from Steward.
func reasonOf(err error) string {
	var failure *connect.Error
	if !errors.As(err, &failure) {
		return ""
	}
	for _, detail := range failure.Details() {
		message, err := detail.Value()
		if info, ok := message.(*errdetails.ErrorInfo); err == nil && ok {
			return fmt.Sprint(failure.Code(), " ", info.Reason)
		}
	}
	return ""
}

// cleartextHTTP2 speaks HTTP/2 without TLS: gRPC needs HTTP/2, and watches share one connection.
func cleartextHTTP2() *http.Client {
	return &http.Client{Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
}

// bearer sends the token with every call.
type bearer string

func (token bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		request.Header().Set("Authorization", "Bearer "+string(token))
		return next(ctx, request)
	}
}

func (token bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		stream := next(ctx, spec)
		stream.RequestHeader().Set("Authorization", "Bearer "+string(token))
		return stream
	}
}

func (token bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
