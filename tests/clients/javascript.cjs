// Runs one conversation of a JavaScript client with the server and prints what it got as one line of JSON.
//   NODE_PATH=FOLDER/node_modules node javascript.cjs ollama|openai URL
const [client, url] = process.argv.slice(2)
const question = [{ role: 'user', content: 'What is the capital of France?' }]
const schema = { type: 'object', properties: { city: { enum: ['Paris', 'Rome'] } }, required: ['city'] }
const call = {
  type: 'object',
  properties: { name: { const: 'get_weather' }, arguments: schema },
  required: ['name', 'arguments'],
}
const parameters = { type: 'object', properties: { city: { type: 'string' } } }
const tools = [{ type: 'function', function: { name: 'get_weather', description: 'Weather of a city', parameters } }]

async function ollama() {
  const { Ollama } = require('ollama')
  const server = new Ollama({ host: url })
  const options = { temperature: 0 }
  let streamed = ''
  for await (const part of await server.chat({ model: 'smollm2', messages: question, stream: true, options })) streamed += part.message.content
  const whole = await server.chat({ model: 'smollm2', messages: question, options, logprobs: true, top_logprobs: 2 })
  const structured = await server.chat({ model: 'smollm2', messages: question, options, format: schema })
  const called = await server.chat({ model: 'caller', messages: question, options, tools, format: call })
  const embedded = await server.embed({ model: 'smollm2', input: ['red', 'blue'] })
  const missing = await server.show({ model: 'nobody' }).catch((error) => error.message)
  return {
    streamed, whole: whole.message.content, logprobs: whole.logprobs, structured: structured.message.content, calls: called.message.tool_calls,
    embeddings: embedded.embeddings, models: (await server.list()).models.map((model) => model.name), missing,
  }
}

async function openai() {
  const OpenAI = require('openai')
  const server = new OpenAI({ baseURL: url + '/v1', apiKey: 'none', maxRetries: 0 })
  const ask = (more) => server.chat.completions.create({ model: 'smollm2', messages: question, temperature: 0, ...more })
  let streamed = ''
  let usage = null
  for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
    streamed += chunk.choices[0]?.delta.content ?? ''
    usage = chunk.usage ?? usage
  }
  const whole = await ask({ logprobs: true, top_logprobs: 2 })
  const structured = await ask({ response_format: { type: 'json_schema', json_schema: { name: 'city', schema } } })
  const called = await ask({ model: 'caller', tools, response_format: { type: 'json_schema', json_schema: { name: 'call', schema: call } } })
  const embedded = await server.embeddings.create({ model: 'smollm2', input: ['red', 'blue'] }) // as base64, without being told
  const missing = await ask({ model: 'nobody' }).catch((error) => error.message)
  const models = []
  for await (const model of server.models.list()) models.push(model.id)
  return {
    streamed, usage, whole: whole.choices[0].message.content, logprobs: whole.choices[0].logprobs.content,
    structured: structured.choices[0].message.content, calls: called.choices[0].message.tool_calls,
    embeddings: embedded.data.map((entry) => entry.embedding), models, missing,
  }
}

;({ ollama, openai })[client]().then((found) => console.log(JSON.stringify(found)))
