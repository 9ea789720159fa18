// node run.js MODEL SAMPLE: run a file that `offramp fuse` wrote on one sample, float32 values in a row. No offramp, no Python.
const { readFileSync } = require("node:fs");
const { InferenceSession, Tensor } = require("onnxruntime-node");

async function main([model, sample]) {
  const session = await InferenceSession.create(model, { intraOpNumThreads: 1, logSeverityLevel: 3 });
  const { name, shape } = session.inputMetadata[0];
  const values = new Float32Array(new Uint8Array(readFileSync(sample)).buffer);
  const { label, score, exit } = await session.run({ [name]: new Tensor("float32", values, shape) });
  console.log(`label ${label.data[0]} score ${score.data[0].toFixed(4)} exit ${exit.data[0]}`);
}

main(process.argv.slice(2));
