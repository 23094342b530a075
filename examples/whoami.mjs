// A service with a page: it listens where JUPYTERHUB_SERVICE_URL says and serves below JUPYTERHUB_SERVICE_PREFIX.
import { createServer } from "node:http";

const {
  JUPYTERHUB_SERVICE_NAME: name,
  JUPYTERHUB_SERVICE_PREFIX: prefix,
  JUPYTERHUB_SERVICE_URL: address,
} = process.env;
const { hostname, port } = new URL(address);

const server = createServer((request, response) => {
  response.setHeader("content-type", "text/html; charset=utf-8");
  response.end(`<!doctype html>
<title>${name}</title>
<h1>I am ${name}</h1>
<p>Process ${process.pid}, up for ${Math.round(process.uptime())} s, serving ${prefix} on port ${port}.</p>
<p>You asked for ${JSON.stringify(request.url).replaceAll("<", "&lt;")}.</p>
`);
});

server.listen(Number(port), hostname, () => console.log(`${name} serves ${prefix} on ${address}`));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
