// Serves a folder, cross-origin isolated as pages with volumes are, so that what the node sends has to allow it.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";

const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".woff2": "font/woff2",
};
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** `replaced` has the text of scripts by their paths. Paths without a file are those of the page. */
export async function serve(folder, replaced = {}) {
  const server = http.createServer((request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://page").pathname);
    if (name in replaced) {
      response.writeHead(200, { ...ISOLATED, "Content-Type": TYPES[".js"] });
      response.end(replaced[name]);
      return;
    }
    let file = path.join(folder, path.normalize(name));
    if (!fs.existsSync(file) || fs.statSync(file).isDirectory()) file = path.join(folder, "index.html");
    const type = TYPES[path.extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { ...ISOLATED, "Content-Type": file.includes("wasm") ? TYPES[".wasm"] : type });
    fs.createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://localhost:${server.address().port}`, close: () => server.close() };
}
