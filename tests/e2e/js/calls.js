// Calls of @grpc/grpc-js with raw messages: node calls.js ADDRESS REQUEST LARGE (hexadecimal); one JSON document.
const grpc = require("@grpc/grpc-js");
const [address, request, large] = process.argv.slice(2);
const same = (value) => value;
const client = new grpc.Client(address, grpc.credentials.createInsecure(), {
  "grpc.max_receive_message_length": -1,
});
const service = "/inference.GRPCInferenceService/";

function unary(method, hex, { id, deadline, cancel } = {}) {
  return new Promise((resolve) => {
    const metadata = new grpc.Metadata();
    if (id) metadata.set("x-request-id", id);
    let initial = {};
    const options = deadline === undefined ? {} : { deadline: Date.now() + deadline };
    const call = client.makeUnaryRequest(
      service + method, same, same, Buffer.from(hex, "hex"), metadata, options,
      (error, answer) =>
        resolve({ code: error ? error.code : 0, details: error ? error.details : "", initial,
          answer: answer ? answer.toString("hex") : "" }),
    );
    call.on("metadata", (said) => { initial = said.getMap(); });
    if (cancel) setTimeout(() => call.cancel(), 20);
  });
}

function stream(hex, count) {
  return new Promise((resolve) => {
    const call = client.makeBidiStreamRequest(service + "ModelStreamInfer", same, same);
    const answers = [];
    call.on("data", (answer) => answers.push(answer.toString("hex")));
    call.on("error", () => {});
    call.on("status", (status) => resolve({ code: status.code, answers }));
    for (let n = 0; n < count; n += 1) call.write(Buffer.from(hex, "hex"));
    call.end();
  });
}

async function main() {
  const found = {
    one: await unary("ModelInfer", request, { id: "from-js" }),
    wrong: await unary("ModelInfer", "ff"),
    nobody: await unary("Nothing", ""),
    many: (await Promise.all(Array.from({ length: 50 }, () => unary("ModelInfer", request)))).map((one) => one.code),
    large: await unary("ModelInfer", large),
    late: await unary("ModelInfer", request, { deadline: -1 }),
    cancelled: await unary("ModelInfer", request, { cancel: true }),
    streamed: await stream(request, 20),
  };
  client.close();
  console.log(JSON.stringify(found));
}
main();
