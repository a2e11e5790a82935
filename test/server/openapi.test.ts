import t from 'tap'
import { listen, startApp } from './harness.js'

t.test('the OpenAPI document is 3.1 and every reference and path in it holds', async (t) => {
  const app = await startApp(t)
  const document = (await app.server.inject('/openapi.json')).json()
  t.equal(document.openapi, '3.1.0')
  const expected: Record<string, string[]> = {
    '/v1/chat/completions': ['get', 'post'], '/v1/completions': ['post'], '/v1/models': ['get'], '/v1/models/{model}': ['delete', 'get'],
    '/livez': ['get'], '/readyz': ['get'], '/startupz': ['get'], '/health': ['get'], '/metrics': ['get'],
  }
  for (const [path, methods] of Object.entries(expected)) t.same(Object.keys(document.paths[path] ?? {}).sort(), methods, path)
  const ids = Object.values<any>(document.paths).flatMap((item) => Object.values<any>(item)).flatMap(({ operationId }) => operationId ?? [])
  t.equal(new Set(ids).size, ids.length, 'operation ids are unique')
  for (const ref of JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)) {
    t.ok(ref[1]!.split('/').reduce((node: any, key) => node?.[key], document), ref[0])
  }
})

t.test('its schemas are valid JSON Schema 2020-12 and take the requests that the server takes', async (t) => {
  const app = await startApp(t)
  const document = (await app.server.inject('/openapi.json')).json()
  const { Ajv2020 } = await import('ajv/dist/2020.js')
  const ajv = new Ajv2020({ strict: false, validateFormats: false })
  let schemas = 0
  for (const item of Object.values<any>(document.paths)) {
    for (const operation of Object.values<any>(item)) {
      const bodies = [operation.requestBody, ...Object.values<any>(operation.responses)].flatMap(
        (part) => Object.values<any>(part?.content ?? {}),
      )
      for (const { schema } of bodies) {
        t.ok(ajv.validateSchema(schema), ajv.errorsText())
        schemas++
      }
    }
  }
  t.ok(schemas > 10)
  const chat = ajv.compile(document.paths['/v1/chat/completions'].post.requestBody.content['application/json'].schema)
  t.ok(chat({ model: 'm', messages: [{ role: 'user', content: 'x' }], stop: null, n: 4 }))
  t.notOk(chat({ model: 'm', messages: [{ role: 'user', content: 'x' }], n: 5 }))
  t.ok(chat({ model: 'm', messages: [{ role: 'user', content: 'x' }], adapter_miss: 'error' }))
  for (const path of ['/v1/chat/completions', '/v1/completions']) {
    t.match(document.paths[path].post.parameters, [{ in: 'header', name: 'x-lorikeet-adapter-miss', schema: { enum: ['wait', 'error'] } }])
  }
})

t.test('answers satisfy their own schemas', async (t) => {
  const app = await startApp(t)
  const { Ajv2020 } = await import('ajv/dist/2020.js')
  const ajv = new Ajv2020({ strict: false })
  const document = (await app.server.inject('/openapi.json')).json()
  const check = async (method: 'GET' | 'POST', url: string, path: string, payload?: object, status = 200) => {
    const response = await app.server.inject({ method, url, ...(payload && { payload }) })
    const key = status === 200 ? '200' : '4XX'
    const { schema } = document.paths[path][method.toLowerCase()].responses[key].content['application/json']
    t.equal(response.statusCode, status)
    t.ok(ajv.validate(schema, response.json()), `${url}: ${ajv.errorsText()}`)
  }
  const messages = [{ role: 'user', content: 'x' }]
  await check('POST', '/v1/chat/completions', '/v1/chat/completions', { model: 'fake', messages, logprobs: true, top_logprobs: 2, n: 2 })
  await check('POST', '/v1/chat/completions', '/v1/chat/completions', { model: 'other', messages }, 404)
  await check('POST', '/v1/completions', '/v1/completions', { model: 'fake', prompt: 'x', echo: true, logprobs: 1, return_token_ids: true })
  await check('GET', '/v1/models', '/v1/models')
  await check('GET', '/v1/models/fake', '/v1/models/{model}')
  await check('GET', '/readyz', '/readyz')
})

t.test('/docs is a page, its assets load, and it may run its own scripts only', async (t) => {
  const app = await startApp(t)
  const url = await listen(app)
  const page = await fetch(`${url}/docs`)
  t.equal(page.status, 200)
  const html = await page.text()
  for (const [, path] of html.matchAll(/(?:src|href)="\.\/([^"]+)"/g)) {
    t.equal((await fetch(`${url}/docs/${path!.replace(/^docs\//, '')}`)).status, 200, path!)
  }
  t.match(page.headers.get('content-security-policy'), /script-src 'self'/)
})
