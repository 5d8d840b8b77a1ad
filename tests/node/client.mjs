// OpenAI's own client for Node, unmodified: one call of each kind, and what it made of the reply as a line of JSON.
import OpenAI from "openai";

const [baseURL, kind] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-mine", maxRetries: 0 });
const messages = [
  { role: "system", content: "Be kind. \u00fc" },
  { role: "user", content: [{ type: "text", text: "How long?" }, { type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } }] },
];
const tools = [{ type: "function", function: { name: "measure", parameters: { type: "object", properties: {} } } }];
const body = { model: "m-1", messages, tools, n: 2, temperature: 0.7, of_tomorrow: { deep: [1.5, null] } };

const kinds = {
  whole: async () => client.chat.completions.create(body),
  streamed: async () => {
    const got = [];
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
      got.push(chunk);
    }
    return got;
  },
  response: async () => client.responses.create({ model: "m-1", input: "How long?", instructions: "Be kind." }),
  models: async () => (await client.models.list()).data,
  left: async () => {
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
      return chunk; // leaving the loop ends the request
    }
  },
};
console.log(JSON.stringify(await kinds[kind]()));
