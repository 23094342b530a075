import type { JsonWriteOptions } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import type { EnvelopedMessage } from "@connectrpc/connect/protocol";
import * as connect from "@connectrpc/connect/protocol-connect";
import * as grpc from "@connectrpc/connect/protocol-grpc";
import * as grpcWeb from "@connectrpc/connect/protocol-grpc-web";

/** What each protocol of the Connect port has in its own way around the messages of a stream. The messages are framed the same in all. */
export interface StreamProtocol {
  /** Whether messages are binary, or else JSON; undefined: the content type is not of this protocol. */
  isBinary(contentType: string | null): boolean | undefined;
  contentType(isBinary: boolean): string;
  /** The headers that name the compression of messages, and those that the client takes, in lower case. */
  readonly encoding: string;
  readonly acceptEncoding: string;
  /** The flag of what a client may send after its messages. */
  readonly endFlag: number | undefined;
  /** What follows the messages: a frame of its own, or trailers of HTTP. `trailers` is the stream's own to change. */
  end(trailers: Headers, error: ConnectError | undefined): StreamEnd;
}

export type StreamEnd =
  | { readonly kind: "envelope"; readonly envelope: EnvelopedMessage }
  | { readonly kind: "trailers"; readonly trailers: Headers };

/** In the order in which they are tried. */
export function streamProtocols(jsonOptions: Partial<JsonWriteOptions>): readonly StreamProtocol[] {
  return [grpcStreams, grpcWebStreams, connectStreams(jsonOptions)];
}

const grpcStreams: StreamProtocol = {
  isBinary: (contentType) => grpc.parseContentType(contentType)?.binary,
  contentType: (isBinary) => (isBinary ? grpc.contentTypeProto : grpc.contentTypeJson),
  encoding: grpc.headerEncoding.toLowerCase(),
  acceptEncoding: grpc.headerAcceptEncoding.toLowerCase(),
  endFlag: undefined,
  end: (trailers, error) => ({ kind: "trailers", trailers: grpc.setTrailerStatus(trailers, error) }),
};

const grpcWebStreams: StreamProtocol = {
  isBinary(contentType) {
    const type = grpcWeb.parseContentType(contentType);
    return type?.text === false ? type.binary : undefined;
  },
  contentType: (isBinary) => (isBinary ? grpcWeb.contentTypeProto : grpcWeb.contentTypeJson),
  encoding: grpcWeb.headerEncoding.toLowerCase(),
  acceptEncoding: grpcWeb.headerAcceptEncoding.toLowerCase(),
  endFlag: grpcWeb.trailerFlag,
  end: (trailers, error) => ({
    kind: "envelope",
    envelope: { flags: grpcWeb.trailerFlag, data: grpcWeb.trailerSerialize(grpc.setTrailerStatus(trailers, error)) },
  }),
};

function connectStreams(jsonOptions: Partial<JsonWriteOptions>): StreamProtocol {
  const serialization = connect.createEndStreamSerialization(jsonOptions);
  return {
    isBinary(contentType) {
      const type = connect.parseContentType(contentType);
      return type?.stream === true ? type.binary : undefined;
    },
    contentType: (isBinary) => (isBinary ? connect.contentTypeStreamProto : connect.contentTypeStreamJson),
    encoding: connect.headerStreamEncoding.toLowerCase(),
    acceptEncoding: connect.headerStreamAcceptEncoding.toLowerCase(),
    endFlag: connect.endStreamFlag,
    end: (metadata, error) => ({
      kind: "envelope",
      envelope: {
        flags: connect.endStreamFlag,
        data: serialization.serialize(error === undefined ? { metadata } : { metadata, error }),
      },
    }),
  };
}
