/** What HTTP/2 looks like on the wire, written by hand, because no library sends what is wrong. */
export const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

export const frameTypes = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;

export const endStream = 0x1;
export const endHeaders = 0x4;

export interface Frame {
  readonly type: number;
  readonly flags?: number;
  readonly stream?: number;
  readonly payload?: Buffer;
  /** What the frame says of its length. Default: the truth. */
  readonly length?: number;
}

export function frame({
  type,
  flags = 0,
  stream = 0,
  payload = Buffer.alloc(0),
  length = payload.length,
}: Frame): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream >>> 0, 5);
  return Buffer.concat([head, payload]);
}

export function settings(values: Readonly<Record<number, number>> = {}): Buffer {
  const entries = Object.entries(values).map(([id, value]) => {
    const entry = Buffer.alloc(6);
    entry.writeUInt16BE(Number(id), 0);
    entry.writeUInt32BE(value, 2);
    return entry;
  });
  return frame({ type: frameTypes.settings, payload: Buffer.concat(entries) });
}

export function reset(stream: number, code: number): Buffer {
  return frame({ type: frameTypes.reset, stream, payload: number32(code) });
}

export function windowUpdate(stream: number, by: number): Buffer {
  return frame({ type: frameTypes.windowUpdate, stream, payload: number32(by) });
}

/** The data of a stream in as many frames as it takes. */
export function data(stream: number, bytes: Buffer, { ends = true }: { ends?: boolean } = {}): Buffer {
  const frames: Buffer[] = [];
  for (let at = 0; at === 0 || at < bytes.length; at += 16_384) {
    const payload = bytes.subarray(at, at + 16_384);
    const isLast = at + 16_384 >= bytes.length;
    frames.push(frame({ type: frameTypes.data, stream, payload, flags: ends && isLast ? endStream : 0 }));
  }
  return Buffer.concat(frames);
}

/** A block of headers in HPACK, each written out (RFC 7541, 6.2.2). */
export function headerBlock(headers: readonly (readonly [name: string, value: string | Buffer])[]): Buffer {
  return Buffer.concat(
    headers.flatMap(([name, value]) => [Buffer.from([0]), text(Buffer.from(name, "latin1")), text(Buffer.from(value))]),
  );
}

/** A header that the other side shall remember, and how to name it afterwards as the newest (RFC 7541, 6.2.1 and 6.1). */
export function rememberedHeader(name: string, value: string): Buffer {
  return Buffer.concat([Buffer.from([0x40]), text(Buffer.from(name)), text(Buffer.from(value))]);
}
export const newestRemembered = Buffer.from([0x80 | 62]);

/** One message of gRPC; the flag and the length are the truth unless they are given. */
export function grpcMessage(
  bytes: Buffer,
  { flag = 0, length = bytes.length }: { flag?: number; length?: number } = {},
): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE(length >>> 0, 1);
  return Buffer.concat([head, bytes]);
}

function number32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

function text(bytes: Buffer): Buffer {
  return Buffer.concat([prefixed(bytes.length), bytes]);
}

/** An integer with a prefix of seven bits (RFC 7541, 5.1). */
function prefixed(value: number): Buffer {
  if (value < 127) return Buffer.from([value]);
  const bytes = [127];
  let left = value - 127;
  for (; left >= 128; left = Math.floor(left / 128)) bytes.push((left % 128) + 128);
  return Buffer.from([...bytes, left]);
}
