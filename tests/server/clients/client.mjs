// Talks to a server with the openai client and prints what it read: client.mjs URL MODEL SCHEMA
import OpenAI from "openai";

const [url, model, schema] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const question = { role: "user", content: "How is the weather?" };
const parameters = JSON.parse(schema);
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
const asked = { model, messages: [question], tools, temperature: 0, max_tokens: 300 };

const whole = (await client.chat.completions.create(asked)).choices[0].message;
const call = whole.tool_calls[0];
const read = (message) => [
  message.content,
  message.reasoning_content,
  JSON.parse(message.tool_calls[0].function.arguments),
];

let thought = "";
const stream = client.chat.completions.stream(asked);
stream.on("chunk", (chunk) => (thought += chunk.choices[0]?.delta?.reasoning_content ?? ""));
const streamed = { ...(await stream.finalMessage()), reasoning_content: thought };

const result = { role: "tool", tool_call_id: call.id, content: "Rain." };
const again = await client.chat.completions.create({ ...asked, messages: [question, whole, result] });

const flat = { type: "function", name: "get_weather", parameters, strict: false };
const ask = { model, input: question.content, tools: [flat], temperature: 0, store: false };
const response = await client.responses.create(ask);
const events = [];
for await (const event of await client.responses.create({ ...ask, stream: true })) events.push(event.type);

const colour = { type: "object", properties: { name: { enum: ["red", "blue"] } }, required: ["name"] };
const format = { type: "json_schema", name: "colour", schema: { ...colour, additionalProperties: false } };
const structured = await client.responses.create({ ...ask, tools: [], text: { format } });

const errors = [];
for (const wrong of [{ model: "nobody" }, { temperature: -1 }]) {
  try {
    await client.chat.completions.create({ ...asked, ...wrong });
  } catch (error) {
    errors.push(error.constructor.name);
  }
}

console.log(
  JSON.stringify({
    chat: read(whole),
    stream: read(streamed),
    again: again.choices[0].finish_reason,
    response: [
      response.output_text,
      response.output.map((item) => item.type),
      JSON.parse(response.output.at(-1).arguments),
    ],
    events,
    colour: JSON.parse(structured.output_text).name,
    errors,
  }),
);
