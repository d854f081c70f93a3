// Bundles the page and cornerstone's decoding worker into dist/, the codecs' WebAssembly beside them.
import * as esbuild from "esbuild";
import fs from "node:fs";
import { builtinModules, createRequire } from "node:module";
import path from "node:path";

const loader = path.resolve("node_modules/@cornerstonejs/dicom-image-loader/dist/esm");
const codecs = [
  "codec-charls/decodewasm",
  "codec-libjpeg-turbo-8bit/decodewasm",
  "codec-openjpeg/decodewasm",
  "codec-openjph/wasm",
];

// What libraries would use if this were Node.js
const withoutNode = {
  name: "without-node",
  setup(build) {
    build.onResolve({ filter: new RegExp(`^(node:)?(${builtinModules.join("|")})$`) }, ({ path }) => ({ path, namespace: "none" }));
    build.onLoad({ filter: /.*/, namespace: "none" }, () => ({ contents: "exports.EventEmitter = class {};" }));
  },
};

await esbuild.build({
  entryPoints: { page: "page.mjs", decodeImageFrameWorker: path.join(loader, "decodeImageFrameWorker.js") },
  outdir: "dist",
  bundle: true,
  format: "esm",
  minify: true,
  plugins: [withoutNode],
  logLevel: "error",
});

// The worker asks for them by the names that bundlers of pages resolve
const resolve = createRequire(path.join(loader, "index.js")).resolve;
for (const codec of codecs) {
  const target = path.join("dist/@cornerstonejs", codec);
  fs.mkdirSync(path.dirname(target), { recursive: true });
  fs.copyFileSync(resolve(`@cornerstonejs/${codec}`), target);
}
fs.writeFileSync("dist/index.html", '<!doctype html><meta charset="utf-8"><script type="module" src="/page.js"></script>');
