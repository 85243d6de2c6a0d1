// A client in JavaScript, of standard modules alone: a signed call, the same again, a signed GET, and a GET that needs no
// signature. Prints what came of each as JSON.
// Usage: node signed_call.mjs CANONICAL.mjs URL KEYS_FOLDER COMMUNITY BODY
import { createHash, createPrivateKey, createPublicKey, randomBytes, sign, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [canonicalFile, url, folder, community, bodyText] = process.argv.slice(2);
const { canonical } = await import(canonicalFile);

const x = readFileSync(join(folder, "device.pub")).toString("base64url");
const d = readFileSync(join(folder, "device.ed25519")).toString("base64url");
const privateKey = createPrivateKey({ key: { kty: "OKP", crv: "Ed25519", d, x }, format: "jwk" });
const nodeId = `ed25519:${x}`; // of the caller; here that of the node as well

function signedHeaders(capability, body) {
  const envelope = {
    capability,
    version: "1.0",
    request_id: randomBytes(16).toString("hex"),
    from: nodeId,
    community,
    timestamp: new Date().toISOString(), // with milliseconds and Z
    body,
  };
  const signature = sign(null, Buffer.from(canonical(envelope)), privateKey);
  return {
    "X-HearthNet-Capability": envelope.capability,
    "X-HearthNet-Capability-Version": envelope.version,
    "X-HearthNet-Request-Id": envelope.request_id,
    "X-HearthNet-From": envelope.from,
    "X-HearthNet-Community": envelope.community,
    "X-HearthNet-Timestamp": envelope.timestamp,
    "X-HearthNet-Signature": `ed25519:${signature.toString("base64url")}`,
  };
}

async function tell(answer, answerTo) {
  const body = Buffer.from(await answer.arrayBuffer());
  const told = { status: answer.status, body: JSON.parse(body) };
  if (answer.headers.has("X-HearthNet-Signature")) told.isProven = isProven(answer, body, answerTo);
  console.log(JSON.stringify(told));
}

function isProven(answer, body, answerTo) {
  const signed = {
    answer_to: answerTo,
    from: nodeId,
    status: answer.status,
    timestamp: answer.headers.get("X-HearthNet-Timestamp"),
    body_sha256: createHash("sha256").update(body).digest("hex"),
  };
  const signature = Buffer.from(answer.headers.get("X-HearthNet-Signature").split(":")[1], "base64url");
  return verify(null, Buffer.from(canonical(signed)), createPublicKey(privateKey), signature);
}

const body = JSON.parse(bodyText);
const headers = { ...signedHeaders("experimental.echo", body), "Content-Type": "application/json" };
for (let tries = 0; tries < 2; tries += 1) {
  const answer = await fetch(`${url}/bus/v1/call`, { method: "POST", headers, body: canonical(body) });
  await tell(answer, headers["X-HearthNet-Signature"]);
}
const signed = signedHeaders("GET /trace/recent?n=1", null);
await tell(await fetch(`${url}/trace/recent?n=1`, { headers: signed }), signed["X-HearthNet-Signature"]);
await tell(await fetch(`${url}/health`));
