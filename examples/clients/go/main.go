// Registers a service and watches what happens to it until it is deleted, over whatever interrupts the connection.
//
//	STEWARD_TOKEN=... go run . HOST:PORT NAME
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	stewardv1 "steward.example/client/gen/steward/v1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: STEWARD_TOKEN=... go run . HOST:PORT NAME")
	}
	address, name := os.Args[1], os.Args[2]
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("STEWARD_TOKEN"))
	if err := run(ctx, connection, name); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, connection grpc.ClientConnInterface, name string) error {
	registry := stewardv1.NewServiceRegistryClient(connection)
	request := &stewardv1.CreateRequest{
		ServiceId: name,
		Service: &stewardv1.Service{Spec: &stewardv1.ServiceSpec{
			Url:  "http://127.0.0.1:8080",
			Kind: &stewardv1.ServiceSpec_External{External: &stewardv1.ExternalSpec{}},
		}},
	}
	created, err := registry.Create(ctx, request)
	if err != nil {
		return err
	}
	fmt.Println("created", created.Service.Name)
	_, err = registry.Create(ctx, request)
	fmt.Println("refused", reasonOf(err))
	// One before: so that the watch begins with what we did ourselves.
	after := &stewardv1.Cursor{Revision: created.Revision - 1}
	return watch(ctx, stewardv1.NewSupervisorClient(connection), name, after)
}

// watch ends when the service is deleted. What passes by itself it tries again, after the last cursor: nothing is missed, nothing comes twice.
func watch(ctx context.Context, supervisor stewardv1.SupervisorClient, name string, after *stewardv1.Cursor) error {
	for {
		deleted, err := follow(ctx, supervisor, name, &after)
		if deleted {
			return nil
		}
		if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled && !errors.Is(err, io.EOF) {
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

func follow(ctx context.Context, supervisor stewardv1.SupervisorClient, name string, after **stewardv1.Cursor) (bool, error) {
	types := []stewardv1.EventType{
		stewardv1.EventType_EVENT_TYPE_SERVICE_CREATED,
		stewardv1.EventType_EVENT_TYPE_SERVICE_UPDATED,
		stewardv1.EventType_EVENT_TYPE_SERVICE_DELETED,
	}
	filter := fmt.Sprintf("service = %q", name)
	stream, err := supervisor.WatchEvents(ctx, &stewardv1.WatchEventsRequest{After: *after, Filter: filter, Types: types}, grpc.WaitForReady(true))
	if err != nil {
		return false, err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return false, err
		}
		*after = response.Cursor
		for _, event := range response.GetBatch().GetEvents() {
			fmt.Println("seen", event.Type)
			if event.Type == stewardv1.EventType_EVENT_TYPE_SERVICE_DELETED {
				return true, nil
			}
		}
	}
}

// reasonOf tells the machine-readable cause of an error; see error.proto.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return fmt.Sprint(status.Code(err), " ", info.Reason)
		}
	}
	return fmt.Sprint(err)
}
