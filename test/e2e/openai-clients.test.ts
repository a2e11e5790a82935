// The OpenAI clients of the field against a real server with the embedded model.

import t from 'tap'
import { isCuda } from '../device.js'
import { clientSuite } from './openai-clients.js'
import { eventually, startServer } from './server-process.js'

// A request's text is compared with that of the same again: on CUDA it has the same bits where the prompt is computed in one piece.
const server = startServer(t, isCuda ? ['--no-prefix-cache'] : [])

clientSuite(t, async () => {
  const { url, model, metric } = await server
  const idle = () =>
    eventually('idle', async () => (await metric('vllm:num_requests_running')) === 0 && (await metric('vllm:num_requests_waiting')) === 0)
  return { url, model, idle, isAloneAsInBatch: !isCuda }
})
