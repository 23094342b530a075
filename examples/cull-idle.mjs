// A worker without a url: every few seconds it asks Steward's API, with its own token, what is registered.
const { STEWARD_ADDRESS: address, JUPYTERHUB_API_TOKEN: token } = process.env;

async function call(method, body) {
  const response = await fetch(`${address}/steward.v1.${method}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${method}: ${response.status} ${await response.text()}`);
  return response.json();
}

const me = await call("ServiceRegistry/WhoAmI", {});
console.log(`I am ${me.name}${me.admin ? ", an admin" : ""}`);

for (;;) {
  try {
    const { services = [] } = await call("ServiceRegistry/List", { pageSize: 1000 });
    const ready = services.filter((service) => service.status?.ready);
    console.log(`${services.length} services, ${ready.length} ready: nothing to cull`);
  } catch (error) {
    // Steward may be away for a moment; we outlive it.
    console.error(`cannot ask: ${error.message}`);
  }
  await new Promise((resolve) => setTimeout(resolve, 10_000));
}
