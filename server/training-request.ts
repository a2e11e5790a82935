// Bodies of POST /v1/fine_tuning/jobs and /admin/train as one NewJob: names resolved, files found, hyper-parameters checked.

import { randomBytes } from 'node:crypto'
import { checkAdapterName, isAdapterName, parseModel } from '../adapters/names.js'
import type { GateOptions } from '../adapters/jobs/job-types.js'
import type { JobData, NewJob } from '../adapters/jobs/job-types.js'
import type { Jobs } from '../adapters/jobs.js'
import type { AdapterRegistry } from '../adapters/registry.js'
import { dataUnderRoots } from '../adapters/roots.js'
import { isHyperParameter, resolveTrainConfig } from '../engine/train/config.js'
import type { TrainConfig } from '../engine/train/types.js'
import { ApiError } from './errors.js'
import type { ApiKey } from './keys.js'
import { BASE_LEARNING_RATE } from './openai/fine-tuning-shapes.js'
import type { CreateJobBody, GateBody, TrainBody } from './openai/fine-tuning-schemas.js'
import { allowModel, mayRead } from './plugins/auth.js'

export interface TrainingSurroundings {
  readonly jobs: Jobs
  readonly registry: AdapterRegistry
  readonly apiKey: ApiKey | null
  readonly baseNames: readonly string[]
  readonly trainRoots: readonly string[]
  /** Largest share of the device's time. */
  readonly trainShare: number
}

type Values = Record<string, unknown>

/** Fields of the bodies that are not hyper-parameters. */
const OWN_FIELDS = [
  'model', 'training_file', 'validation_file', 'suffix', 'method', 'hyperparameters', 'integrations', 'metadata', 'gate', 'name', 'data',
  'validation_data',
]
const EPOCHS = [1, 50] as const
const BATCH = [1, 256] as const

/** OpenAI's way. Answers alone are learnt unless loss_on says otherwise. @throws ApiError, EngineError */
export async function fineTuningJob(body: CreateJobBody, at: TrainingSurroundings): Promise<NewJob> {
  refuseUnsupported(body)
  const asked = { ...body.hyperparameters, ...body.method?.supervised?.hyperparameters }
  const values = { loss_on: 'assistant', ...topLevel(body), ...fromOpenAi(asked), ...(body.seed != null && { seed: body.seed }) }
  const name = nameOfSuffix(body.suffix)
  const train = await fileOf(body.training_file, 'training_file', at)
  const validation = body.validation_file == null ? undefined : await fileOf(body.validation_file, 'validation_file', at)
  return {
    ...(await commonJob(values, { name, model: body.model, gate: body.gate }, at)), hyperparameters: { ...topLevel(body), ...asked },
    train, ...(validation && { validation }), ...(body.suffix != null && { suffix: body.suffix }), ...metadataOf(body.metadata),
    keepsCheckpoints: true,
  }
}

/** The short way. @throws ApiError, EngineError */
export async function adminJob(body: TrainBody, at: TrainingSurroundings): Promise<NewJob> {
  const values = topLevel(body)
  const train = await dataOf(body.data, 'data', at)
  const validation = body.validation_data == null ? undefined : await dataOf(body.validation_data, 'validation_data', at)
  const model = body.model ?? at.baseNames[0]!
  return {
    ...(await commonJob(values, { name: checkAdapterName(body.name), model, gate: body.gate }, at)), hyperparameters: values, train,
    ...(validation && { validation }), ...metadataOf(body.metadata),
  }
}

interface CommonFields {
  readonly name: string
  readonly model: string
  readonly gate: GateBody | null | undefined
}

async function commonJob(values: Values, { name, model, gate }: CommonFields, at: TrainingSurroundings) {
  allowModel(at.apiKey, name)
  const initFrom = startingPoint(model, at)
  if (values['init_from'] !== undefined) throw refused('init_from', "name the adapter to go on from as 'model'")
  const config = bounded(resolveTrainConfig({ ...values, ...(initFrom !== undefined && { init_from: initFrom }) }), at.trainShare)
  const options = gate == null ? undefined : await gateOptions(gate, at)
  return { name, model, owner: at.apiKey?.id ?? null, config, ...(options && { gate: options }) }
}

const bounded = (config: TrainConfig, trainShare: number): TrainConfig =>
  ({ ...config, trainShare: Math.min(config.trainShare, trainShare) })

function refuseUnsupported({ method, integrations }: CreateJobBody): void {
  const type = method?.type ?? 'supervised'
  if (type !== 'supervised') throw refused('method', `'${type.slice(0, 40)}' is not supported; use 'supervised'`)
  if (integrations != null && integrations.length > 0) throw refused('integrations', 'no integration is supported')
}

/** Hyper-parameters that stand beside the other fields; what is none is ignored, as unknown fields are everywhere. */
function topLevel(body: Readonly<Record<string, unknown>>): Values {
  return Object.fromEntries(Object.entries(body).filter(([field, value]) =>
    !OWN_FIELDS.includes(field) && field !== 'seed' && value != null && isHyperParameter(field))
    .concat(typeof body['seed'] === 'number' ? [['seed', body['seed']]] : []))
}

/** "auto" is the preset's own value. @throws ApiError for what OpenAI would not take either */
function fromOpenAi(asked: Values): Values {
  const { n_epochs: epochs, batch_size: batch, learning_rate_multiplier: multiplier, ...others } = asked
  const values: Values = { ...others }
  const isSet = (value: unknown) => value !== undefined && value !== null && value !== 'auto'
  if (isSet(epochs)) values['num_train_epochs'] = within('n_epochs', epochs, EPOCHS)
  if (isSet(batch)) {
    values['per_device_train_batch_size'] = 1
    values['gradient_accumulation_steps'] = within('batch_size', batch, BATCH)
  }
  if (isSet(multiplier)) {
    const isRate = typeof multiplier === 'number' && multiplier > 0
    if (!isRate) throw refused('learning_rate_multiplier', "expected 'auto' or a number above 0")
    values['learning_rate'] = BASE_LEARNING_RATE * multiplier
  }
  return values
}

function within(name: string, value: unknown, [least, most]: readonly [number, number]): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return value as number
  throw refused(name, `expected 'auto' or a whole number from ${least} to ${most}`)
}

/** Undefined for the base; the folder of the adapter that the job goes on from. */
function startingPoint(model: string, { registry, baseNames, apiKey }: TrainingSurroundings): string | undefined {
  const parsed = parseModel(model, baseNames)
  if (parsed?.kind === 'base') return undefined
  const isServed = parsed !== null && registry.store.record(parsed.name) !== undefined
  if (!isServed) {
    throw new ApiError(404, 'model_not_found', `The model '${model.slice(0, 120)}' does not exist on this server.`, { param: 'model' })
  }
  allowModel(apiKey, model)
  return registry.store.find(parsed.name, parsed.versionPrefix).path
}

/** An adapter's name as near to the suffix as its rules allow. */
function nameOfSuffix(suffix: string | null | undefined): string {
  if (suffix == null) return `ft-${randomBytes(4).toString('hex')}`
  const name = suffix.replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[^A-Za-z0-9]+|[.]+$/g, '')
  return isAdapterName(name) ? name : checkAdapterName(suffix, 'suffix')
}

async function fileOf(id: string, param: string, at: TrainingSurroundings): Promise<JobData> {
  const file = at.jobs.files.get(id)
  if (file === undefined || !mayRead(at.apiKey, file.owner)) {
    throw new ApiError(400, 'file_not_found', `There is no file '${id.slice(0, 80)}'.`, { param })
  }
  if (file.purpose === 'fine-tune-results') throw refused(param, `${id} is a result; upload data with the purpose 'fine-tune'`)
  return { path: file.path, shown: id }
}

/** A file id, or a path under a root. */
async function dataOf(data: string, param: string, at: TrainingSurroundings): Promise<JobData> {
  if (at.jobs.files.get(data) !== undefined) return fileOf(data, param, at)
  return { path: await dataUnderRoots(data, at.trainRoots, param), shown: data }
}

async function gateOptions(gate: GateBody, at: TrainingSurroundings): Promise<GateOptions> {
  const { metric, minimum, maximum, max_samples: maxSamples } = gate
  const [limit, other] = metric === 'loss' ? [maximum, minimum] : [minimum, maximum]
  if (other != null) throw refused('gate', metric === 'loss' ? "a loss has a 'maximum'" : `${metric} has a 'minimum'`)
  if (metric === 'execution_accuracy' && gate.database == null) throw refused('gate', "execution_accuracy needs 'database'")
  const database = gate.database == null ? undefined : await dataOf(gate.database, 'gate.database', at)
  return {
    data: await dataOf(gate.data, 'gate.data', at), metric, notWorseThanCurrent: gate.not_worse_than_current ?? limit == null,
    ...(database && { database }), ...(limit != null && { threshold: limit }), ...(maxSamples != null && { maxSamples }),
  }
}

const metadataOf = (metadata: Readonly<Record<string, string>> | null | undefined) => (metadata == null ? {} : { metadata })

const refused = (param: string, message: string): ApiError => new ApiError(400, 'invalid_value', `'${param}': ${message}.`, { param })
