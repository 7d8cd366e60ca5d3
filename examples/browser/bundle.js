// Reads the files of a bundle over HTTP, and compares each with the manifest.

const SCHEMA_VERSION = 3;

export class Bundle {
  constructor(address, manifest) {
    this.address = address;
    this.manifest = manifest;
  }

  // Opens the bundle in the folder at `address`. Throws an Error where there is none of this version.
  static async open(address) {
    const folder = new URL(address.endsWith("/") ? address : `${address}/`, document.baseURI);
    const manifest = JSON.parse(new TextDecoder().decode(await download(new URL("rpln.json", folder))));
    if (manifest.schema_version !== SCHEMA_VERSION) {
      const found = manifest.schema_version;
      throw new Error(`rpln.json has schema version ${found}, expected ${SCHEMA_VERSION}: export it again.`);
    }
    return new Bundle(folder, manifest);
  }

  // Returns the bytes of a file. Throws an Error where its size or its SHA-256 is not that of the manifest.
  async read(path) {
    const row = this.manifest.files.find((file) => file.path === path);
    if (!row) throw new Error(`The bundle lists no ${path}: export the checkpoint again.`);
    const address = new URL(path, this.address);
    if (!address.href.startsWith(this.address.href)) {
      throw new Error(`The bundle lists ${path}, which is outside of it: export the checkpoint again.`);
    }
    const bytes = await download(address);
    if (bytes.byteLength !== row.size || (await sha256(bytes)) !== row.sha256) {
      throw new Error(`${path} differs from what was exported (SHA-256): copy the bundle again.`);
    }
    return new Uint8Array(bytes);
  }

  // Returns the content of a JSON file.
  async readJson(path) {
    return JSON.parse(new TextDecoder().decode(await this.read(path)));
  }

  // Returns the files of weights that lie beside the graphs, as ONNX Runtime takes them.
  async readWeights() {
    const paths = this.manifest.files.map((file) => file.path).filter((path) => path.endsWith(".onnx.data"));
    return Promise.all(paths.map(async (path) => ({ path, data: await this.read(path) })));
  }
}

async function download(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} cannot be read: the server answers ${response.status}.`);
  return response.arrayBuffer();
}

// Browsers compute hashes only for pages from https or from this machine.
async function sha256(bytes) {
  if (!globalThis.isSecureContext) {
    throw new Error("A bundle cannot be checked (SHA-256) in a page from this address: use https or localhost.");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
