module steward.example/connect-client

go 1.25.0

require (
	connectrpc.com/connect v1.19.1
	golang.org/x/net v0.51.0
	google.golang.org/genproto/googleapis/api v0.0.0-20260226221140-a57be14db171
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260226221140-a57be14db171
	google.golang.org/protobuf v1.36.11
)

require golang.org/x/text v0.34.0 // indirect

tool (
	connectrpc.com/connect/cmd/protoc-gen-connect-go
	google.golang.org/protobuf/cmd/protoc-gen-go
)
