const OpenAI = require("openai");

const { GATEWAY_URL: url, GATEWAY_KEY: key, INPUTS } = process.env;
const { EMBEDDER: model, TEXTS, MANY, DIMENSIONS: dimensions } = JSON.parse(INPUTS);
const { VERSION: version } = require("openai/version");
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const made = [];

async function answered() {
  const text = await (await fetch(`${url}/metrics`)).text();
  const total = {};
  for (const [, route, count] of text.matchAll(/infinity_gateway_requests_total\{.*?route="([^"]+)".*?\} (\S+)/g))
    total[route] = (total[route] ?? 0) + Number(count);
  return total;
}

async function call(name, kind, make) {
  const before = await answered();
  const got = await make();
  const after = await answered();
  const routes = Object.keys(after).filter((route) => after[route] !== before[route]);
  made.push({ client: "openai (JavaScript)", version, call: name, kind, routes, got });
}

const failure = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return { class: error.constructor.name, status: error.status, message: error.message };
  }
  throw new Error("it did not fail");
};
const vectors = (answer) => answer.data.map((row) => row.embedding);
const embed = (input, options) => client.embeddings.create({ model, input, ...options });

(async () => {
  await call("embeddings.create", "vectors", async () => vectors(await embed(TEXTS)));
  await call("embeddings.create", "vectors", async () => vectors(await embed(TEXTS, { encoding_format: "float" })));
  await call("embeddings.create", "shortened", async () => vectors(await embed(TEXTS, { dimensions })));
  await call("embeddings.create", "many", async () =>
    (await Promise.all(MANY.map((text) => embed(text)))).map((answer) => vectors(answer)[0]));
  await call("models.list", "models", async () => (await client.models.list()).data.map((row) => row.id));
  const stranger = client.withOptions({ apiKey: "sk-another" });
  await call("a wrong key", "error", () => failure(stranger.embeddings.create({ model, input: "a" })));
  await call("an unknown model", "error", () => failure(client.embeddings.create({ model: "nobody", input: "a" })));
  await call("no input", "error", () => failure(embed([])));
  await call("token ids", "error", () => failure(embed([[15339, 1917]])));
  console.log(JSON.stringify(made));
})();
