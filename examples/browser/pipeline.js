// Opens a bundle of rpln-export in a page: text in, answers out, equal to those of rpln_runtime.pipeline() in Python.
//
//   const pipeline = await openPipeline("./my-bundle/");
//   const entities = await pipeline.answer({ text: "The dog barked." }, { aggregation_strategy: "simple" });

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { Bundle } from "./bundle.js";
import { TASKS } from "./tasks.js";
import { Tokenizer } from "./tokenizer.js";

// A page may use several threads only if its server isolates it from other sites (the headers COOP and COEP).
if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1;

// Opens the bundle in the folder at `address`. Throws an Error for one that cannot run here.
export async function openPipeline(address) {
  const bundle = await Bundle.open(address);
  const { manifest } = bundle;
  const task = TASKS[manifest.task];
  if (!task) {
    throw new Error(`The bundle's task is ${manifest.task}, expected one of ${Object.keys(TASKS).join(", ")}.`);
  }
  // The first graph is in ONNX's own operators. Other forms of it have operators that onnxruntime-web lacks.
  const [graph] = manifest.graphs;
  for (const output of graph.outputs) if (task.outputs.includes(output.name)) checkOutput(output);
  const tokenizer = new Tokenizer(await bundle.readJson("tokenizer.json"));
  const options = { executionProviders: ["wasm"], externalData: await bundle.readWeights() };
  const session = await ort.InferenceSession.create(await bundle.read(graph.path), options);
  return new Pipeline({ manifest, graph, task, tokenizer, session });
}

export class Pipeline {
  constructor({ manifest, graph, task, tokenizer, session }) {
    Object.assign(this, { manifest, graph, task, tokenizer, session });
  }

  // Returns the answer for an item: an object with a text for each of `task.fields`. `options` are those of the task.
  // Throws an Error for an item that the task does not take, or that is too long.
  async answer(item, options = {}) {
    const tokens = this.tokenizer.encode(...this.task.fields.map((field) => item[field]));
    const limit = Math.min(this.manifest.usable_length, this.task.longest ?? Infinity);
    if (tokens.length > limit) {
      throw new Error(`The text has ${tokens.length} tokens, but the limit is ${limit}: shorten it.`);
    }
    const outputs = await this.session.run(feedsFromTokens(tokens, this.graph, this.manifest), this.task.outputs);
    const rows = Object.fromEntries(this.task.outputs.map((name) => [name, rowsOf(outputs[name])]));
    const { manifest, tokenizer } = this;
    return this.task.answer({ item, tokens, rows, manifest, tokenizer, options });
  }
}

function checkOutput({ name, dtype, shape }) {
  if (dtype !== "float32") throw new Error(`The output ${name} is ${dtype}: export with --io-dtype fp32.`);
  if (shape.includes("masked_tokens") || shape.includes("masks")) {
    throw new Error(`The output ${name} has rows for masks alone: export with --logits all.`);
  }
}

// Returns the tensors of one text: int64, [1, tokens].
function feedsFromTokens(tokens, graph, { pad_token_id: pad, token_types: hasTypes = true }) {
  let position = pad;
  const columns = {
    input_ids: tokens.map(({ id }) => id),
    attention_mask: tokens.map(() => 1),
    token_type_ids: tokens.map(({ type }) => (hasTypes ? type : 0)),
    // As in RoBERTa, positions count from pad_token_id + 1 on, and a token of padding has the position pad_token_id.
    position_ids: tokens.map(({ id }) => (id === pad ? pad : ++position)),
  };
  return Object.fromEntries(
    graph.inputs.map(({ name }) => {
      if (!columns[name]) throw new Error(`The graph takes ${name}: export the checkpoint without it.`);
      return [name, new ort.Tensor("int64", columns[name].map(BigInt), [1, tokens.length])];
    }),
  );
}

// Returns the rows along the last axis of the tensor of one text.
function rowsOf({ data, dims }) {
  const width = dims.at(-1);
  return Array.from({ length: data.length / width }, (_, row) => data.subarray(row * width, (row + 1) * width));
}
