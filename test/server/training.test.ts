// The training surfaces with the real OpenAI client and with fetch.

import { symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import OpenAI from 'openai'
import { refused } from '../e2e/openai-clients.js'
import { MODEL, sseEvents } from './harness.js'
import { DATA, finished, row, startTraining } from './training-harness.js'

t.test('the openai client uploads, trains, follows the events and uses the model', async (t) => {
  const { client: open } = await startTraining(t)
  const client = open()
  const file = await client.files.create({ file: new File([DATA], 'data.jsonl'), purpose: 'fine-tune' })
  t.match(file, { object: 'file', bytes: DATA.length, filename: 'data.jsonl', purpose: 'fine-tune', status: 'processed' })
  t.equal((await client.files.waitForProcessing(file.id)).id, file.id)
  const job = await client.fineTuning.jobs.create({
    model: MODEL, training_file: file.id, suffix: 'my model', metadata: { team: 'x' }, seed: 7,
    method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 'auto', learning_rate_multiplier: 0.5 } } },
  })
  t.match(job, {
    object: 'fine_tuning.job', status: /validating_files|queued|running/, model: MODEL, training_file: file.id, validation_file: null,
    seed: 7, fine_tuned_model: null, finished_at: null, error: null, metadata: { team: 'x' }, organization_id: 'lorikeet',
    user_provided_suffix: 'my model',
  })
  const done = await finished(client, job.id)
  t.match(done, { status: 'succeeded', trained_tokens: 500, finished_at: Number })
  t.match(done.fine_tuned_model, /^ft:fake:lorikeet:my-model:[0-9a-f]{8}$/)
  t.match(done.hyperparameters, { n_epochs: 3, batch_size: 4, learning_rate_multiplier: 0.5 })
  const events = []
  for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 3 })) events.push(event)
  t.match(events[0], { object: 'fine_tuning.job.event', message: 'The job has successfully completed', level: 'info', type: 'message' })
  t.match(events.find(({ message }) => message === 'Step 10/10: training loss=0.20'),
    { type: 'metrics', data: { step: 10, total_steps: 10, train_loss: 0.2, train_mean_token_accuracy: 1 } })
  t.equal(new Set(events.map(({ id }) => id)).size, events.length)
  const checkpoints = []
  for await (const checkpoint of client.fineTuning.jobs.checkpoints.list(job.id, { limit: 1 })) checkpoints.push(checkpoint)
  t.match(checkpoints, [{ step_number: 10, metrics: { step: 10, train_loss: 0.2, full_valid_loss: 0.3 } }, { step_number: 5 }])
  const answer = async (model: string) =>
    (await client.chat.completions.create({ model, messages: [{ role: 'user', content: 'x' }] })).choices[0]!.message.content
  t.equal((await answer(done.fine_tuned_model!))!.slice(0, 8), done.fine_tuned_model!.slice(-8), 'the job\'s model answers')
  t.equal(await answer('my-model'), await answer(done.fine_tuned_model!), 'and so does its name')
  const [last, earlier] = checkpoints.map((checkpoint) => checkpoint.fine_tuned_model_checkpoint)
  t.match(earlier, /^ft:fake:lorikeet:my-model:[0-9a-f]{8}:ckpt-step-5$/)
  t.not(await answer(earlier!), await answer(last!), 'checkpoints are models too')
  t.equal((await client.models.retrieve(done.fine_tuned_model!)).id, done.fine_tuned_model)
  const [result] = done.result_files
  t.match(await client.files.retrieve(result!), { purpose: 'fine-tune-results' })
  t.match(await (await client.files.content(result!)).text(), /^step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,2,/)
  t.equal((await client.fineTuning.jobs.list({ metadata: { team: 'x' } })).data[0]?.id, job.id)
  t.equal((await client.fineTuning.jobs.list({ metadata: { team: 'y' } })).data.length, 0)
})

t.test('the openai client pauses, resumes and cancels', async (t) => {
  const { client: open, upload } = await startTraining(t, { training: { stepMs: 10, steps: 50 } })
  const client = open()
  const create = async () => (await client.fineTuning.jobs.create({ model: MODEL, training_file: await upload() })).id
  const [first, second] = [await create(), await create()]
  t.equal((await client.fineTuning.jobs.pause(first) as { status: string }).status, 'paused')
  t.equal((await client.fineTuning.jobs.cancel(second)).status, 'cancelled')
  await refused(t, client.fineTuning.jobs.resume(second), OpenAI.BadRequestError, { status: 400, code: 'invalid_job_state' })
  t.equal((await client.fineTuning.jobs.resume(first)).status, 'queued')
  t.match(await finished(client, first), { status: 'succeeded' })
  await refused(t, client.fineTuning.jobs.cancel(first), OpenAI.BadRequestError, { code: 'invalid_job_state', message: /has succeeded/ })
  await refused(t, client.fineTuning.jobs.retrieve('ftjob-none'), OpenAI.NotFoundError, { code: 'job_not_found' })
})

t.test('files are listed, read, paged, expire and are deleted', async (t) => {
  const { client: open } = await startTraining(t)
  const client = open()
  const names = ['a.jsonl', 'b.csv', 'c.jsonl']
  for (const name of names) await client.files.create({ file: new File([DATA], name), purpose: 'fine-tune' })
  const other = await client.files.create({
    file: new File(['x'], 'x.sqlite'), purpose: 'user_data', expires_after: { anchor: 'created_at', seconds: 3_600 },
  })
  t.equal(other.expires_at! - other.created_at, 3_600)
  const listed = []
  for await (const file of client.files.list({ limit: 2, purpose: 'fine-tune' })) listed.push(file)
  t.same(listed.map(({ filename }) => filename), [...names].reverse())
  t.same((await client.files.list({ order: 'asc', limit: 1 })).data.map(({ filename }) => filename), ['a.jsonl'])
  const { id } = listed[0]!
  t.equal(await (await client.files.content(id)).text(), DATA)
  t.match(await client.files.delete(id), { id, object: 'file', deleted: true })
  await refused(t, client.files.retrieve(id), OpenAI.NotFoundError, { code: 'file_not_found' })
  await refused(t, client.files.content(id), OpenAI.NotFoundError, {})
})

t.test('/admin/train is the short way, and its events come as they happen', async (t) => {
  const { call, url } = await startTraining(t, { training: { stepMs: 5 } })
  const created = await call('POST', '/admin/train', { name: 'sql', data: 'chat.jsonl', r: 8, num_train_epochs: 2, preset: 'guide' })
  t.equal(created.status, 202)
  t.match(created.json, { adapter: { name: 'sql', version: null }, training_file: 'chat.jsonl', hyperparameters: { r: 8 } })
  const { id } = created.json
  const response = await fetch(`${url}/admin/train/${id}/events`, { headers: { accept: 'text/event-stream' } })
  t.match(response.headers.get('content-type'), /text\/event-stream/)
  const events = sseEvents(await response.text())
  t.match(events[0], { message: `Created fine-tuning job: ${id}` })
  t.equal(events.at(-1), '[DONE]')
  t.equal(events.at(-2).message, 'The job has successfully completed')
  t.equal(events.filter(({ type }) => type === 'metrics').length, 13, '10 steps, 2 evaluations, the data')
  t.match((await call('GET', `/admin/train/${id}`)).json,
    { status: 'succeeded', adapter: { name: 'sql', version: String }, progress: { step: 10, total_steps: 10, train_loss: 0.2 } })
  t.match((await call('GET', `/admin/train/${id}/events?limit=2`)).json, { has_more: true, data: [{ message: /successfully/ }, {}] })
  t.match((await call('GET', '/admin/train')).json, { data: [{ id }], has_more: false })
  t.match(await call('DELETE', `/admin/train/${id}`), { status: 200, json: { deleted: true } })
  t.match(await call('GET', `/admin/train/${id}`), { status: 404, json: { error: { code: 'job_not_found' } } })
  t.match(await call('POST', '/v1/chat/completions', { model: 'sql', messages: [{ role: 'user', content: 'x' }] }), { status: 200 },
    'what it published stays')
})

t.test('a running job is deleted by cancelling it', async (t) => {
  const { call, jobs } = await startTraining(t, { training: { stepMs: 10, steps: 1_000 } })
  const { id } = (await call('POST', '/admin/train', { name: 'sql', data: 'chat.jsonl' })).json
  t.match(await call('DELETE', `/admin/train/${id}`), { status: 200 })
  t.equal(jobs.get(id), undefined)
  t.match(await call('POST', '/v1/chat/completions', { model: 'sql', messages: [{ role: 'user', content: 'x' }] }), { status: 404 })
})

t.test('the same Idempotency-Key makes one job, however often and at once it is sent', async (t) => {
  const { call } = await startTraining(t)
  const body = { name: 'sql', data: 'chat.jsonl' }
  const send = (fields: object = {}) => call('POST', '/admin/train', { ...body, ...fields }, { 'idempotency-key': 'once' })
  const answers = await Promise.all(Array.from({ length: 20 }, () => send()))
  t.equal(new Set(answers.map(({ json }) => json.id)).size, 1)
  t.equal(answers.filter(({ headers }) => headers.get('idempotent-replayed') === 'true').length, 19)
  t.match(await send({ name: 'other' }), { status: 422, json: { error: { code: 'idempotency_key_reused', param: 'Idempotency-Key' } } })
  t.match(await call('POST', '/admin/train', body, { 'idempotency-key': 'x'.repeat(256) }), { status: 400 })
  t.equal((await call('GET', '/admin/train')).json.data.length, 1)
})

t.test('too many jobs are refused without a retry by the client', async (t) => {
  const { client: open, upload, call } = await startTraining(t, { flags: ['--max-jobs', '2'], training: { stepMs: 50 } })
  const id = await upload()
  for (let i = 0; i < 2; i++) await open().fineTuning.jobs.create({ model: MODEL, training_file: id })
  const refusal = await call('POST', '/v1/fine_tuning/jobs', { model: MODEL, training_file: id })
  t.match(refusal, { status: 429, json: { error: { code: 'too_many_jobs' } } })
  t.equal(refusal.headers.get('x-should-retry'), 'false')
})

t.test('uploads that are no file for this server are refused, and leave nothing', async (t) => {
  const { call, jobs } = await startTraining(t, { flags: ['--max-file-bytes', '2KiB', '--file-quota', '3KiB'] })
  const form = (fields: Record<string, string>, name = 'a.jsonl', content = 'x', field = 'file') => {
    const body = new FormData()
    for (const [key, value] of Object.entries(fields)) body.append(key, value)
    body.append(field, new Blob([content]), name)
    return body
  }
  const post = async (body: FormData | object) => {
    const { status, json } = await call('POST', '/v1/files', body)
    return [status, json.error?.param ?? json.error?.code ?? json.id]
  }
  const tune = { purpose: 'fine-tune' }
  t.same(await post(form({})), [400, 'purpose'])
  t.same(await post(form({ purpose: 'assistants' })), [400, 'purpose'])
  t.same(await post(form(tune, 'a.txt')), [400, 'file'])
  t.same(await post(form(tune, 'a.jsonl', '')), [400, 'file'])
  t.same(await post(form(tune, 'a.jsonl', 'x'.repeat(2_049))), [413, 'file'])
  t.same(await post(form(tune, 'a.jsonl', 'x', 'data')), [400, 'file'])
  t.same(await post(form({ ...tune, 'expires_after[anchor]': 'created_at', 'expires_after[seconds]': '5' })), [400, 'expires_after'])
  t.same(await post(form({ ...tune, 'expires_after[seconds]': '7200' })), [400, 'expires_after'])
  t.same(await post({ purpose: 'fine-tune' }), [415, 'unsupported_media_type'])
  const empty = new FormData()
  empty.append('purpose', 'fine-tune')
  t.same(await post(empty), [400, 'file'])
  t.same(jobs.files.list({ limit: 9 }).data, [])
  t.equal((await post(form(tune, '../../../etc/passwd.jsonl', 'x'.repeat(2_000))))[0], 200)
  t.equal(jobs.files.list({ limit: 9 }).data[0]!.filename, 'passwd.jsonl')
  t.same(await post(form(tune, 'b.jsonl', 'x'.repeat(1_500))), [413, 'file_quota_exceeded'])
})

t.test('bad jobs are refused with the field at fault before anything is stored', async (t) => {
  const { call, jobs, upload } = await startTraining(t)
  const id = await upload()
  const good = { model: MODEL, training_file: id }
  const hyper = (values: object) => ({ ...good, method: { type: 'supervised', supervised: { hyperparameters: values } } })
  const cases: ReadonlyArray<readonly [object, number, string]> = [
    [{ training_file: id }, 400, 'model'], [{ model: MODEL }, 400, 'training_file'], [{ ...good, model: 'gpt-4' }, 404, 'model'],
    [{ ...good, training_file: 'file-none' }, 400, 'training_file'], [{ ...good, training_file: '../../x' }, 400, 'training_file'],
    [{ ...good, validation_file: 'file-none' }, 400, 'validation_file'], [{ ...good, suffix: 'x'.repeat(65) }, 400, 'suffix'],
    [{ ...good, suffix: '...' }, 400, 'suffix'], [{ ...good, seed: -1 }, 400, 'seed'], [{ ...good, seed: 1.5 }, 400, 'seed'],
    [{ ...good, method: { type: 'dpo' } }, 400, 'method'], [{ ...good, integrations: [{ type: 'wandb' }] }, 400, 'integrations'],
    [hyper({ n_epochs: 0 }), 400, 'n_epochs'], [hyper({ n_epochs: 51 }), 400, 'n_epochs'], [hyper({ n_epochs: 'many' }), 400, 'n_epochs'],
    [hyper({ batch_size: 257 }), 400, 'batch_size'], [hyper({ batch_size: 1.5 }), 400, 'batch_size'],
    [hyper({ learning_rate_multiplier: 0 }), 400, 'learning_rate_multiplier'],
    [hyper({ learning_rate_multiplier: '1' }), 400, 'learning_rate_multiplier'],
    [hyper({ r: 0 }), 400, 'r'], [hyper({ r: 1e6 }), 400, 'r'], [hyper({ target_modules: ['nothing'] }), 400, 'target_modules'],
    [hyper({ lora_dropout: 1 }), 400, 'lora_dropout'], [hyper({ no_such_thing: 1 }), 400, 'no_such_thing'],
    [hyper({ __proto__: null, constructor: 1 }), 400, 'constructor'], [hyper({ init_from: '/etc' }), 400, 'init_from'],
    [{ ...good, init_from: '/etc' }, 400, 'init_from'], [{ ...good, learning_rate: 'fast' }, 400, 'learning_rate'],
    [{ ...good, metadata: { k: 1 } }, 400, 'metadata.k'], [{ ...good, metadata: { ['k'.repeat(65)]: 'v' } }, 400, 'metadata'],
    [{ ...good, metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, 'v'])) }, 400, 'metadata'],
    [{ ...good, gate: { metric: 'beauty', data: id } }, 400, 'gate.metric'], [{ ...good, gate: { metric: 'loss' } }, 400, 'gate.data'],
    [{ ...good, gate: { metric: 'loss', data: id, minimum: 1 } }, 400, 'gate'],
    [{ ...good, gate: { metric: 'execution_accuracy', data: id } }, 400, 'gate'],
    [{ ...good, gate: { metric: 'exact_match', data: 'nowhere' } }, 400, 'gate.data'],
  ]
  for (const [body, status, param] of cases) {
    const answer = await call('POST', '/v1/fine_tuning/jobs', body)
    t.equal(answer.status, status, JSON.stringify(body).slice(0, 160))
    t.match(answer.json?.error?.param, new RegExp(`^${param.split('.')[0]}`), answer.text.slice(0, 200))
  }
  t.same(jobs.list({ limit: 9 }).data, [])
})

t.test('data is read only below the roots, whatever the path', async (t) => {
  const { call, root } = await startTraining(t)
  await writeFile(join(root, 'secret.jsonl'), DATA)
  await symlink(join(root, 'secret.jsonl'), join(root, 'train', 'link.jsonl'))
  await symlink(root, join(root, 'train', 'up'))
  for (const data of [
    join(root, 'secret.jsonl'), '../secret.jsonl', 'link.jsonl', 'up/secret.jsonl', 'up', '/etc/passwd', 'none.jsonl', 'a\0b', '.', '',
  ]) t.match(await call('POST', '/admin/train', { name: 'sql', data }), { status: 400, json: { error: { param: 'data' } } }, data)
  t.match(await call('POST', '/admin/train', { name: 'sql', data: join(root, 'train', 'chat.jsonl') }), { status: 202 })
  for (const name of ['', '../x', 'a/b', 'con', 'x'.repeat(65), '.hidden']) {
    t.match(await call('POST', '/admin/train', { name, data: 'chat.jsonl' }), { status: 400, json: { error: { param: 'name' } } }, name)
  }
})

t.test('bad data fails the job with file and line, and the server goes on', async (t) => {
  const { client: open } = await startTraining(t)
  const client = open()
  for (const [content, message] of [[`${row()}\n{"bad": 1}\n`, /file-[0-9a-f]+:2: a message has no role/], [' \n', /no record/]] as const) {
    const file = await client.files.create({ file: new File([content], 'bad.jsonl'), purpose: 'fine-tune' })
    const job = await client.fineTuning.jobs.create({ model: MODEL, training_file: file.id })
    const failed = await finished(client, job.id)
    t.match(failed, { status: 'failed', error: { code: 'invalid_training_file', param: 'training_file', message }, fine_tuned_model: null })
    t.notMatch(failed.error!.message, /\/files\//)
  }
  const gone = await client.files.create({ file: new File([DATA], 'gone.jsonl'), purpose: 'fine-tune' })
  const waiting = await client.fineTuning.jobs.create({ model: MODEL, training_file: gone.id })
  t.match(await finished(client, waiting.id), { status: 'succeeded' })
})

t.test('training goes on from an adapter that the model field names', async (t) => {
  const { client: open, upload, engine, adapters } = await startTraining(t)
  const client = open()
  const file = await upload()
  const first = await finished(client, (await client.fineTuning.jobs.create({ model: MODEL, training_file: file, suffix: 'sql' })).id)
  const again = await client.fineTuning.jobs.create({ model: first.fine_tuned_model!, training_file: file, suffix: 'sql' })
  t.match(await finished(client, again.id), { status: 'succeeded', fine_tuned_model: /^ft:fake:lorikeet:sql:/ })
  t.equal(engine.runs[1]!.config.initFrom, adapters.store.find('sql', first.fine_tuned_model!.slice(-8)).path)
})

t.test('loss is on the answers by default here, and on what the preset says there', async (t) => {
  const { client: open, upload, engine, call } = await startTraining(t, { flags: ['--train-share', '0.25'] })
  const client = open()
  const id = await upload()
  await finished(client, (await client.fineTuning.jobs.create({ model: MODEL, training_file: id })).id)
  const extra = { preset: 'guide', loss_on: 'all', r: 4, train_share: 1 }
  await finished(client, (await client.fineTuning.jobs.create({ model: MODEL, training_file: id, ...extra })).id)
  await finished(client, (await call('POST', '/admin/train', { name: 'a', data: 'chat.jsonl', preset: 'guide', train_share: 0.1 })).json.id)
  t.match(engine.runs.map(({ config }) => config), [
    { lossOn: 'assistant', trainShare: 0.25, r: 16 }, { lossOn: 'all', r: 4, trainShare: 0.25 }, { lossOn: 'all', trainShare: 0.1 },
  ])
})

t.test('training needs its scope, and a key sees its own jobs and files only', async (t) => {
  const keys = {
    mine: { scopes: ['train', 'infer'] as const, models: ['mine'] }, theirs: { scopes: ['train'] as const },
    infer: { scopes: ['infer'] as const }, admin: { scopes: ['admin'] as const },
  }
  const { client, upload } = await startTraining(t, { keys })
  await refused(t, client('infer').files.list(), OpenAI.PermissionDeniedError, { code: 'insufficient_scope' })
  await refused(t, client('infer').fineTuning.jobs.list(), OpenAI.PermissionDeniedError, { code: 'insufficient_scope' })
  const file = await upload()
  const create = (name: string, suffix: string) => client(name).fineTuning.jobs.create({ model: MODEL, training_file: file, suffix })
  await refused(t, create('mine', 'others'), OpenAI.PermissionDeniedError, { code: 'model_not_allowed' })
  await refused(t, create('theirs', 'x'), OpenAI.BadRequestError, { code: 'file_not_found' })
  const { id } = await create('mine', 'mine')
  const done = await finished(client('mine'), id)
  const answer = (model: string) => client('mine').chat.completions.create({ model, messages: [{ role: 'user', content: 'x' }] })
  await t.resolves(answer(done.fine_tuned_model!), 'a key bound to a name may use its versions')
  await refused(t, client('theirs').fineTuning.jobs.retrieve(id), OpenAI.NotFoundError, {})
  await refused(t, client('theirs').fineTuning.jobs.cancel(id), OpenAI.NotFoundError, {})
  await refused(t, client('theirs').files.content(file), OpenAI.NotFoundError, {})
  await refused(t, client('theirs').files.delete(file), OpenAI.NotFoundError, {})
  t.same((await client('theirs').fineTuning.jobs.list()).data, [])
  t.same((await client('theirs').files.list()).data, [])
  t.equal((await client('admin').fineTuning.jobs.list()).data.length, 1)
  t.equal((await client('admin').files.list()).data.length, 2, 'the data and the result')
})

t.test('the gate of a job asked for over HTTP', async (t) => {
  const { call, client } = await startTraining(t, { script: { reply: ({ adapter }) => [adapter == null ? 'b' : 'a'] } })
  const body = { name: 'sql', data: 'chat.jsonl', gate: { data: 'chat.jsonl', metric: 'exact_match', minimum: 0.9, max_samples: 5 } }
  const passed = await call('POST', '/admin/train', body)
  t.match(await finished(client(), passed.json.id), { status: 'succeeded', evaluation: { exact_match: 1, samples: 5 } })
  const failed = await call('POST', '/admin/train', { ...body, gate: { ...body.gate, metric: 'loss', minimum: undefined, maximum: 0.1 } })
  t.match(await finished(client(), failed.json.id), { status: 'failed', error: { code: 'evaluation_gate', param: 'gate' } })
})

t.test('a fine-tuned model can be deleted', async (t) => {
  const { client: open, upload } = await startTraining(t)
  const client = open()
  const { id } = await client.fineTuning.jobs.create({ model: MODEL, training_file: await upload(), suffix: 'sql' })
  const job = await finished(client, id)
  t.match(await client.models.delete(job.fine_tuned_model!), { id: job.fine_tuned_model, deleted: true })
  await refused(t, client.models.retrieve(job.fine_tuned_model!), OpenAI.NotFoundError, {})
  await refused(t, client.models.delete(MODEL), OpenAI.BadRequestError, {})
  await refused(t, client.models.delete('none'), OpenAI.NotFoundError, {})
})

t.test('metrics show the job that runs', async (t) => {
  const { call, app } = await startTraining(t, { training: { stepMs: 20, steps: 200 } })
  const metrics = async () => {
    await new Promise((resolve) => setTimeout(resolve, 20))
    return (await app.server.inject({ url: '/metrics' })).body
  }
  const { id } = (await call('POST', '/admin/train', { name: 'sql', data: 'chat.jsonl' })).json
  await call('POST', '/admin/train', { name: 'next', data: 'chat.jsonl' })
  let text = ''
  for (const end = Date.now() + 10_000; Date.now() < end && !/lorikeet_training_step [1-9]/.test(text);) text = await metrics()
  for (const line of [
    /^lorikeet_training_jobs\{status="running"\} 1$/m, /^lorikeet_training_jobs\{status="queued"\} 1$/m,
    /^lorikeet_training_total_steps 200$/m,
    /^lorikeet_training_loss [\d.]+$/m, /^lorikeet_training_learning_rate 0\.0002$/m, /^lorikeet_training_tokens [1-9]\d*$/m,
    /^lorikeet_training_tokens_per_second 500$/m, new RegExp(`^lorikeet_training_job_info\\{job="${id}",adapter="sql"\\} 1$`, 'm'),
  ]) t.match(text, line)
  for (const { id: job } of (await call('GET', '/admin/train')).json.data) await call('POST', `/admin/train/${job}/cancel`)
  for (const end = Date.now() + 5_000; Date.now() < end && /^lorikeet_training_loss \d/m.test(text);) text = await metrics()
  t.notMatch(text, /^lorikeet_training_loss \d/m, 'nothing is shown of a job that has ended')
  t.match(text, /^lorikeet_training_jobs\{status="cancelled"\} 2$/m)
})

t.test('answers of the training routes satisfy their own schemas', async (t) => {
  const { call, app, upload, client } = await startTraining(t)
  const { Ajv2020 } = await import('ajv/dist/2020.js')
  const ajv = new Ajv2020({ strict: false })
  const document = (await app.server.inject('/openapi.json')).json()
  const file = await upload()
  const { id } = await client().fineTuning.jobs.create({ model: MODEL, training_file: file, metadata: { a: 'b' } })
  await finished(client(), id)
  const cases = [
    ['/v1/files', '/v1/files'], ['/v1/files/{file_id}', `/v1/files/${file}`], ['/v1/fine_tuning/jobs', '/v1/fine_tuning/jobs'],
    ['/v1/fine_tuning/jobs/{fine_tuning_job_id}', `/v1/fine_tuning/jobs/${id}`], ['/admin/train', '/admin/train'],
    ['/v1/fine_tuning/jobs/{fine_tuning_job_id}/events', `/v1/fine_tuning/jobs/${id}/events`],
    ['/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints', `/v1/fine_tuning/jobs/${id}/checkpoints`],
    ['/admin/train/{id}/events', `/admin/train/${id}/events`],
  ] as const
  for (const [path, url] of cases) {
    const { schema } = document.paths[path].get.responses['200'].content['application/json']
    t.ok(ajv.validate(schema, (await call('GET', url)).json), `${url}: ${ajv.errorsText()}`)
  }
  const error = document.paths['/v1/files/{file_id}'].get.responses['4XX'].content['application/json'].schema
  t.ok(ajv.validate(error, (await call('GET', '/v1/files/none')).json))
})

t.test('a server whose engine does not train says so', async (t) => {
  const { call, engine } = await startTraining(t)
  Object.defineProperty(engine, 'train', { value: undefined })
  const answer = await call('POST', '/admin/train', { name: 'sql', data: 'chat.jsonl' })
  t.match(answer, { status: 400, json: { error: { code: 'unsupported' } } })
})
