import { type DescFile, type DescService, toBinary } from "@bufbuild/protobuf";
import { nestedTypes } from "@bufbuild/protobuf/reflect";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import {
  type ServerReflectionRequest,
  ServerReflection as ServerReflectionV1,
} from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import {
  type ServerReflectionRequest as ServerReflectionRequestAlpha,
  ServerReflection as ServerReflectionV1Alpha,
} from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { detailFiles } from "./detail-types.ts";
import { type ServedService, serve } from "./handler.ts";

/** `grpc.reflection` v1 and v1alpha over the generated descriptors, so that generic clients can call the services without their proto files. */
export function reflection(services: readonly DescService[], access: ServedService["access"]): ServedService[] {
  const index = new DescriptorIndex([...services, ServerReflectionV1, ServerReflectionV1Alpha]);
  return [
    serve(ServerReflectionV1, { serverReflectionInfo: (requests) => answers(index, requests) }, { access }),
    serve(ServerReflectionV1Alpha, { serverReflectionInfo: (requests) => answers(index, requests) }, { access }),
  ];
}

// The two versions have the same fields.
type AnyRequest = ServerReflectionRequest | ServerReflectionRequestAlpha;

async function* answers<R extends AnyRequest>(index: DescriptorIndex, requests: AsyncIterable<R>) {
  const sent = new Set<DescFile>();
  for await (const request of requests) {
    const messageResponse = answerTo(index, request.messageRequest, sent);
    yield { validHost: request.host, originalRequest: request, messageResponse };
  }
}

function answerTo(
  index: DescriptorIndex,
  { case: question, value }: AnyRequest["messageRequest"],
  sent: Set<DescFile>,
) {
  switch (question) {
    case "listServices":
      return { case: "listServicesResponse" as const, value: { service: index.services } };
    case "fileByFilename":
      return filesOf(index.files.get(value), value, sent);
    case "fileContainingSymbol":
      return filesOf(index.symbols.get(value), value, sent);
    case "fileContainingExtension": {
      const { containingType, extensionNumber } = value;
      const file = index.extensions.get(containingType)?.get(extensionNumber);
      return filesOf(file, `extension ${extensionNumber} of ${containingType}`, sent);
    }
    case "allExtensionNumbersOfType":
      return extensionNumbers(index, value);
    case undefined:
      return failure(3, "no question");
  }
}

function filesOf(file: DescFile | undefined, what: string, sent: Set<DescFile>) {
  if (file === undefined) return failure(5, `not found: ${what}`);
  const files = [file, ...dependenciesOf(file)].filter((each) => each === file || !sent.has(each));
  for (const each of files) sent.add(each);
  const fileDescriptorProto = files.map(({ proto }) => toBinary(FileDescriptorProtoSchema, proto));
  return { case: "fileDescriptorResponse" as const, value: { fileDescriptorProto } };
}

function extensionNumbers(index: DescriptorIndex, baseTypeName: string) {
  const numbers = index.extensions.get(baseTypeName);
  if (numbers === undefined && !index.symbols.has(baseTypeName)) return failure(5, `not found: ${baseTypeName}`);
  const extensionNumber = [...(numbers?.keys() ?? [])];
  return { case: "allExtensionNumbersResponse" as const, value: { baseTypeName, extensionNumber } };
}

function failure(errorCode: number, errorMessage: string) {
  return { case: "errorResponse" as const, value: { errorCode, errorMessage } };
}

/** Where everything is declared that the services reach. */
class DescriptorIndex {
  readonly services: { name: string }[];
  readonly files = new Map<string, DescFile>();
  readonly symbols = new Map<string, DescFile>();
  readonly extensions = new Map<string, Map<number, DescFile>>();

  constructor(services: readonly DescService[]) {
    this.services = services.map(({ typeName }) => ({ name: typeName }));
    // Error details are reached by no method, but clients want to read them.
    const roots = [...services.map(({ file }) => file), ...detailFiles];
    const files = new Set(roots.flatMap((file) => [file, ...dependenciesOf(file)]));
    for (const file of files) this.#add(file);
  }

  #add(file: DescFile): void {
    this.files.set(file.proto.name, file);
    for (const type of nestedTypes(file)) {
      this.symbols.set(type.typeName, file);
      if (type.kind === "extension") this.#addExtension(type.extendee.typeName, type.number, file);
      for (const member of membersOf(type)) this.symbols.set(`${type.typeName}.${member}`, file);
    }
  }

  #addExtension(extendee: string, number: number, file: DescFile): void {
    const numbers = this.extensions.get(extendee) ?? new Map<number, DescFile>();
    this.extensions.set(extendee, numbers.set(number, file));
  }
}

type NestedType = ReturnType<typeof nestedTypes> extends Iterable<infer T> ? T : never;

function membersOf(type: NestedType): string[] {
  switch (type.kind) {
    case "message":
      return [...type.fields, ...type.oneofs].map(({ name }) => name);
    case "service":
      return type.methods.map(({ name }) => name);
    case "enum":
      return type.values.map(({ name }) => name);
    case "extension":
      return [];
  }
}

function dependenciesOf(file: DescFile): Set<DescFile> {
  const found = new Set<DescFile>();
  const visit = (dependency: DescFile) => {
    if (found.has(dependency)) return;
    found.add(dependency);
    dependency.dependencies.forEach(visit);
  };
  file.dependencies.forEach(visit);
  return found;
}
