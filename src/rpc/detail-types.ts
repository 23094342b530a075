import { createRegistry } from "@bufbuild/protobuf";
import { file_buf_validate_validate } from "../../gen/buf/validate/validate_pb.ts";
import { file_google_rpc_error_details } from "../../gen/google/rpc/error_details_pb.ts";

/** Where the types of error details are declared. */
export const detailFiles = [file_google_rpc_error_details, file_buf_validate_validate] as const;

/** The types that error details may have, so that JSON clients see them spelled out. */
export const detailTypes = createRegistry(...detailFiles);
