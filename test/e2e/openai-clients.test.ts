// The OpenAI clients of the field against a real server with the embedded model.

import t from 'tap'
import { clientSuite } from './openai-clients.js'
import { eventually, startServer } from './server-process.js'

const server = startServer(t)

clientSuite(t, async () => {
  const { url, model, metric } = await server
  const idle = () =>
    eventually('idle', async () => (await metric('vllm:num_requests_running')) === 0 && (await metric('vllm:num_requests_waiting')) === 0)
  return { url, model, idle }
})
