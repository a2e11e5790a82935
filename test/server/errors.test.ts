import t from 'tap'
import { EngineError, type EngineErrorCode } from '../../engine/errors.js'
import { toApiError } from '../../server/errors.js'
import { chat, complete, sseEvents, startApp } from './harness.js'

/** ENGINE_RESTARTED is retried before it is told: resume.test.ts. */
const STATUS: Readonly<Record<Exclude<EngineErrorCode, 'ENGINE_RESTARTED'>, [status: number, type: string]>> = {
  INVALID_REQUEST: [400, 'invalid_request_error'],
  CONTEXT_LENGTH_EXCEEDED: [400, 'invalid_request_error'],
  TEXT_WITHOUT_TOKENIZER: [400, 'invalid_request_error'],
  INVALID_CONVERSATION: [400, 'invalid_request_error'],
  UNKNOWN_MODEL: [404, 'invalid_request_error'],
  QUARANTINED: [422, 'invalid_request_error'],
  QUEUE_FULL: [429, 'rate_limit_error'],
  ADAPTER_SLOTS_BUSY: [429, 'rate_limit_error'],
  OUT_OF_MEMORY: [503, 'server_error'],
  MODEL_NOT_FOUND: [404, 'invalid_request_error'],
  MODEL_INVALID: [400, 'invalid_request_error'],
  FILE_INVALID: [400, 'invalid_request_error'],
  UNSUPPORTED: [400, 'invalid_request_error'],
  ADAPTER_NOT_FOUND: [404, 'invalid_request_error'],
  ADAPTER_INVALID: [400, 'invalid_request_error'],
  ADAPTER_RANK_TOO_LARGE: [400, 'invalid_request_error'],
  ADAPTER_EXISTS: [400, 'invalid_request_error'],
  DATA_INVALID: [400, 'invalid_request_error'],
  TRAINING_BUSY: [429, 'rate_limit_error'],
  TRAINING_DIVERGED: [422, 'invalid_request_error'],
  DISK_FULL: [507, 'server_error'],
  ENGINE_UNAVAILABLE: [503, 'server_error'],
  ABORTED: [499, 'invalid_request_error'],
  CUDA_NOT_BUILT: [500, 'server_error'],
  CUDA_ERROR: [500, 'server_error'],
  DEVICE_LOST: [503, 'server_error'],
  SHAPE_MISMATCH: [500, 'server_error'],
  INTERNAL: [500, 'server_error'],
}

t.test('every engine code has its status, on both routes, streamed or not', async (t) => {
  for (const [code, [status, type]] of Object.entries(STATUS)) {
    const app = await startApp(t, { script: { refuse: new EngineError(code as EngineErrorCode, 'why not', { param: 'messages' }) } })
    for (const send of [chat, complete]) {
      for (const stream of [false, true]) {
        const response = await send(app, { stream })
        t.equal(response.statusCode, status, code)
        t.match(response.json().error, { type, param: 'messages', code: String }, code)
        t.equal('retry-after' in response.headers, status === 429 || status === 503, code)
      }
    }
  }
})

t.test('our own failures are not told to the client', async (t) => {
  for (const code of ['INTERNAL', 'SHAPE_MISMATCH', 'CUDA_ERROR'] as const) {
    t.notMatch(toApiError(new EngineError(code, 'at 0x7f3a in /srv/model')).message, /0x|srv/)
  }
  t.notMatch(toApiError(new TypeError('x.y is undefined')).message, /undefined/)
})

t.test('Retry-After is whole seconds, and milliseconds for the OpenAI clients', async (t) => {
  const app = await startApp(t, { script: { refuse: new EngineError('QUEUE_FULL', 'full', { retryAfterMs: 1_200 }) } })
  const { headers } = await chat(app)
  t.same([headers['retry-after'], headers['retry-after-ms']], ['2', '1200'])
})

t.test('an error in mid-stream is the last event, and no [DONE] follows', async (t) => {
  const error = new EngineError('OUT_OF_MEMORY', 'no blocks left')
  for (const send of [chat, complete]) {
    const app = await startApp(t, { script: { failAt: { token: 2, error } } })
    const events = sseEvents((await send(app, { stream: true })).body)
    t.same(events.at(-1), { error: { message: 'no blocks left', type: 'server_error', param: null, code: 'out_of_memory' } })
    t.notOk(events.includes('[DONE]'))
    t.equal((await send(app)).statusCode, 503, 'and the status where nothing was sent yet')
  }
})

t.test('an unknown failure in mid-stream says nothing of the inside', async (t) => {
  const app = await startApp(t, { script: { failAt: { token: 1, error: new Error('secret') } } })
  const { body } = await chat(app, { stream: true })
  t.notMatch(body, /secret/)
  t.equal(sseEvents(body).at(-1).error.code, 'internal_error')
})
