import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from "node:crypto";
import { crc32 } from "node:zlib";

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const prefix = "sts_";
const randomLength = 30;
const checkLength = 6;

/** A new secret: `sts_`, 30 random base62 characters (178 bits) and 6 of CRC-32 over all before, so that scanners can tell it from noise. */
export function mintSecret(): string {
  let body = prefix;
  while (body.length < prefix.length + randomLength) {
    for (const byte of randomBytes(randomLength)) {
      // 248 = 4 * 62: larger bytes would favour some characters.
      if (byte < 248 && body.length < prefix.length + randomLength) body += alphabet[byte % 62];
    }
  }
  return body + checksum(body);
}

/** Whether a text has the form and checksum of a minted secret. Says nothing about whether it works. */
export function looksMinted(secret: string): boolean {
  if (!/^sts_[0-9A-Za-z]{36}$/.test(secret)) return false;
  return checksum(secret.slice(0, -checkLength)) === secret.slice(-checkLength);
}

/** What of a secret may be shown, to recognise it by. */
export function hintOf(secret: string): string {
  return secret.slice(0, prefix.length + 4);
}

function checksum(body: string): string {
  let rest = crc32(body);
  let digits = "";
  for (let place = 0; place < checkLength; place++) {
    digits = (alphabet[rest % 62] ?? "0") + digits;
    rest = Math.floor(rest / 62);
  }
  return digits;
}

/** The keys made of one pepper that lives outside the database: a stolen database alone neither opens nor guesses anything. */
export class TokenKeys {
  /** A key object, because Node would make one of bytes for each digest, which takes ten times as long as the digest. */
  readonly #digestKey: KeyObject;
  readonly #sealKey: Buffer;

  /** Takes a pepper of at least 32 bytes. */
  constructor(pepper: Buffer) {
    if (pepper.length < 32) throw new Error(`the pepper has ${pepper.length} bytes; 32 are needed`);
    this.#digestKey = createSecretKey(Buffer.from(hkdfSync("sha256", pepper, "", "steward token digest", 32)));
    this.#sealKey = Buffer.from(hkdfSync("sha256", pepper, "", "steward seal", 32));
  }

  /** HMAC-SHA-256: the only form in which a token is stored and looked up. */
  digest(secret: string): Buffer {
    return createHmac("sha256", this.#digestKey).update(secret).digest();
  }

  /** Encrypts what must be readable again, with AES-256-GCM: nonce, tag, then the text. */
  seal(text: string): Buffer {
    const nonce = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", this.#sealKey, nonce);
    const body = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
    return Buffer.concat([nonce, cipher.getAuthTag(), body]);
  }

  /** Decrypts; throws if the pepper is another or a byte was changed. */
  open(sealed: Buffer): string {
    const decipher = createDecipheriv("aes-256-gcm", this.#sealKey, sealed.subarray(0, 12));
    decipher.setAuthTag(sealed.subarray(12, 28));
    return Buffer.concat([decipher.update(sealed.subarray(28)), decipher.final()]).toString("utf8");
  }
}
