import t from 'tap'
import type { AdapterDirectory } from '../../server/adapter-directory.js'
import { BaseOnlyDirectory } from '../../server/adapter-directory.js'
import { chat, MODEL, startApp } from './harness.js'

t.test('/v1/models has the base with root, parent and max_model_len', async (t) => {
  const app = await startApp(t)
  const list = (await app.server.inject('/v1/models')).json()
  const { created } = list.data[0]
  const card = { id: MODEL, object: 'model', created, owned_by: 'lorikeet', root: '/models/fake', parent: null, max_model_len: 4_096 }
  t.same(list, { object: 'list', data: [card] })
  t.ok(Math.abs(card.created - Date.now() / 1000) < 60)
  t.same((await app.server.inject(`/v1/models/${MODEL}`)).json(), card)
})

t.test('an unknown model is 404 model_not_found', async (t) => {
  const app = await startApp(t)
  const response = await app.server.inject('/v1/models/other')
  t.equal(response.statusCode, 404)
  t.match(response.json().error, { code: 'model_not_found', param: 'model', type: 'invalid_request_error' })
})

t.test('an id with a slash is found when encoded', async (t) => {
  const app = await startApp(t, { flags: ['--served-model-name', 'google/gemma-3-1b-it'] })
  t.equal((await app.server.inject('/v1/models/google%2Fgemma-3-1b-it')).statusCode, 200)
})

t.test('several served names all answer', async (t) => {
  const app = await startApp(t, { flags: ['--served-model-name', 'second'] })
  for (const model of [MODEL, 'second']) t.equal((await chat(app, { model })).json().model, model)
})

t.test('the directory lends an adapter for the time of the request', async (t) => {
  const base = new BaseOnlyDirectory([MODEL], '/models/fake')
  let held = 0
  const adapters: AdapterDirectory = {
    list: async () => [...(await base.list()), { id: 'sql', created: 5, root: '/adapters/sql', parent: MODEL }],
    resolve: async (model) => {
      if (model !== 'sql') return base.resolve(model)
      held++
      const adapter = { slot: 3, version: 'v1' }
      return { adapter, name: 'sql', renew: async () => adapter, release: () => void held-- }
    },
    nameOfSlot: () => 'sql',
    waiting: () => new Map(),
  }
  const app = await startApp(t, { adapters })
  t.match((await app.server.inject('/v1/models/sql')).json(), { root: '/adapters/sql', parent: MODEL })
  for (const stream of [false, true]) t.equal((await chat(app, { model: 'sql', stream })).statusCode, 200)
  t.same(app.engine.requests.map((request) => request.adapter), [{ slot: 3, version: 'v1' }, { slot: 3, version: 'v1' }])
  t.equal(held, 0)
})

t.test('while the model loads, the process is alive and nothing else', async (t) => {
  const app = await startApp(t, { loading: true })
  app.backend.progress = { phase: 'quantising', done: 1, total: 4 }
  const status = async (url: string) => (await app.server.inject(url)).statusCode
  t.same(await Promise.all(['/livez', '/startupz', '/readyz', '/health'].map(status)), [200, 503, 503, 503])
  t.equal((await app.server.inject('/readyz')).json().reason, 'starting: quantising 25 %')
  const response = await chat(app)
  t.equal(response.statusCode, 503)
  t.match(response.json().error, { code: 'engine_unavailable', type: 'server_error' })
  t.equal((await app.server.inject('/v1/models')).statusCode, 503)
  app.backend.attach(app.engine, new BaseOnlyDirectory([MODEL], ''))
  t.same(await Promise.all(['/livez', '/startupz', '/readyz', '/health'].map(status)), [200, 200, 200, 200])
  t.equal((await chat(app)).statusCode, 200)
})

t.test('readiness follows the engine: restarting, failed, draining', async (t) => {
  const app = await startApp(t)
  const ready = async () => {
    const response = await app.server.inject('/readyz')
    return [response.statusCode, response.json().reason]
  }
  t.same(await ready(), [200, 'ready'])
  app.engine.crash()
  t.same(await ready(), [503, 'restarting'])
  app.engine.recover()
  t.same(await ready(), [200, 'ready'])
  app.engine.state = 'failed'
  t.same(await ready(), [503, 'failed'])
  t.equal((await chat(app)).statusCode, 503)
  app.engine.state = 'ready'
  app.backend.startDraining()
  t.same(await ready(), [503, 'draining'])
  t.equal((await chat(app)).statusCode, 503)
  t.equal((await app.server.inject('/livez')).statusCode, 200)
})

t.test('an engine that runs sequences and finishes no step is hung', async (t) => {
  const app = await startApp(t)
  const stats = await app.engine.stats()
  app.engine.stats = async () => ({ ...stats, running: 1, lastStepAtMs: 10_001 })
  await app.backend.poll()
  t.same((await app.server.inject('/readyz')).json(), { status: 'unavailable', reason: 'hung' })
  app.engine.stats = async () => ({ ...stats, running: 0, lastStepAtMs: 3_600_000 })
  await app.backend.poll()
  t.equal((await app.server.inject('/readyz')).statusCode, 200, 'an idle engine is not hung')
})
