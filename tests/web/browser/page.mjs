// In the browser: what viewers are made of, asked one object after the other.
import { init as initCore } from "@cornerstonejs/core";
import dicomImageLoader from "@cornerstonejs/dicom-image-loader";
import { api } from "dicomweb-client";

initCore();
dicomImageLoader.init({ maxWebWorkers: 1 });
const { wadors } = dicomImageLoader;

const base64 = (buffer) =>
  new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.readAsDataURL(new Blob([buffer]));
  });

/** Palettes as numbers: the loader takes them from its metadata, where OHIF and others put them. */
const withPalettes = (metadata) => {
  const bits = metadata["00281101"]?.Value?.[2];
  for (const tag of ["00281201", "00281202", "00281203"].filter((tag) => metadata[tag]?.InlineBinary)) {
    const bytes = Uint8Array.from(atob(metadata[tag].InlineBinary), (letter) => letter.charCodeAt(0));
    metadata[tag].Value = [...(bits > 8 ? new Uint16Array(bytes.buffer) : bytes)];
  }
  return metadata;
};

/** Cells of a frame as cornerstone's worker decodes them; `useRGBA` as OHIF has it. */
window.frame = async ({ root, study, series, instance, number }) => {
  const client = new api.DICOMwebClient({ url: root });
  const ids = { studyInstanceUID: study, seriesInstanceUID: series, sopInstanceUID: instance };
  const [metadata] = await client.retrieveSeriesMetadata(ids).then((all) =>
    all.filter((each) => each["00080018"].Value[0] === instance),
  );
  const imageId = `wadors:${root}/studies/${study}/series/${series}/instances/${instance}/frames/${number}`;
  wadors.metaDataManager.add(imageId, withPalettes(metadata));
  const loading = wadors.loadImage(imageId, { preScale: { enabled: false }, useRGBA: false }).promise;
  const image = await loading.catch((error) => Promise.reject(error?.error ?? error)); // it rejects with an event
  const cells = image.voxelManager?.getScalarData() ?? image.getPixelData();
  return {
    type: cells.constructor.name,
    rows: image.rows,
    columns: image.columns,
    transferSyntax: image.imageFrame?.transferSyntax ?? "",
    cells: await base64(cells),
  };
};

/** A call of the JS dicomweb-client; buffers and blobs in base64. */
window.client = async ({ root, call, options }) => {
  const client = new api.DICOMwebClient({ url: root });
  const plain = async (value) => {
    if (value instanceof ArrayBuffer || value instanceof Blob) return { bytes: await base64(value) };
    return Array.isArray(value) ? Promise.all(value.map(plain)) : value;
  };
  return plain(await client[call](options));
};

/** Objects stored as OHIF's upload does, which is this client's call. */
window.store = async ({ root, objects }) => {
  const client = new api.DICOMwebClient({ url: root });
  const datasets = objects.map((text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  return JSON.parse(await client.storeInstances({ datasets }));
};

/** As thumbnails are fetched, and shown by a tag in a page that is cross-origin isolated. */
window.picture = async ({ url }) => {
  const image = new Image();
  image.crossOrigin = "anonymous";
  image.src = url;
  await image.decode();
  return { width: image.naturalWidth, height: image.naturalHeight };
};

window.fetched = async ({ url, accept }) => {
  const answer = await fetch(url, { headers: accept ? { Accept: accept } : {} });
  const type = answer.headers.get("Content-Type");
  return { status: answer.status, type, bytes: (await answer.arrayBuffer()).byteLength };
};

window.isReady = true;
