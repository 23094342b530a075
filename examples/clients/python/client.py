"""Registers a service and watches what happens to it until it is deleted, over whatever interrupts the connection.

    STEWARD_TOKEN=... python client.py HOST:PORT NAME
"""

import json
import os
import sys
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# Where the generated code is; see docs/clients.md.
sys.path.insert(0, os.environ.get("STEWARD_GEN", str(Path(__file__).parent / "gen")))

from steward.v1 import event_pb2, service_pb2, service_registry_pb2, service_registry_pb2_grpc  # noqa: E402
from steward.v1 import supervisor_pb2, supervisor_pb2_grpc  # noqa: E402

TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def main(address: str, name: str) -> None:
    metadata = [("authorization", f"Bearer {os.environ['STEWARD_TOKEN']}")]
    with grpc.insecure_channel(address) as channel:
        registry = service_registry_pb2_grpc.ServiceRegistryStub(channel)
        spec = service_pb2.ServiceSpec(url="http://127.0.0.1:8080", external=service_pb2.ExternalSpec())
        request = service_registry_pb2.CreateRequest(service_id=name, service=service_pb2.Service(spec=spec))
        created = registry.Create(request, metadata=metadata, timeout=30)
        print("created", created.service.name, flush=True)
        try:
            registry.Create(request, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            print("refused", reason_of(error), flush=True)
        # One before: so that the watch begins with what we did ourselves.
        after = event_pb2.Cursor(revision=created.revision - 1)
        watch(supervisor_pb2_grpc.SupervisorStub(channel), metadata, name, after)


def watch(supervisor, metadata, name: str, after: event_pb2.Cursor) -> None:
    """Ends when the service is deleted. What passes by itself is tried again, after the last cursor: nothing is missed, nothing comes twice."""
    types = [event_pb2.EVENT_TYPE_SERVICE_CREATED, event_pb2.EVENT_TYPE_SERVICE_UPDATED, event_pb2.EVENT_TYPE_SERVICE_DELETED]
    while True:
        request = supervisor_pb2.WatchEventsRequest(after=after, filter=f"service = {json.dumps(name)}", types=types)
        try:
            for response in supervisor.WatchEvents(request, metadata=metadata, timeout=60, wait_for_ready=True):
                after = response.cursor
                for event in response.batch.events:
                    print("seen", event_pb2.EventType.Name(event.type), flush=True)
                    if event.type == event_pb2.EVENT_TYPE_SERVICE_DELETED:
                        return
        except grpc.RpcError as error:
            if error.code() not in TRANSIENT:
                raise
        print("interrupted", flush=True)
        time.sleep(0.2)


def reason_of(error: grpc.RpcError) -> str:
    """The machine-readable cause of an error; see error.proto."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return f"{error.code().name} {info.reason}"
    return str(error)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: STEWARD_TOKEN=... python client.py HOST:PORT NAME")
    main(sys.argv[1], sys.argv[2])
