// Bodies and answers of /v1/files, /v1/fine_tuning and /admin/train, for validation and OpenAPI.

import { Type, type Static, type TSchema } from 'typebox'
import { METRICS } from '../../adapters/evaluation/report.js'
import { JOB_STATUSES } from '../../adapters/jobs/job-types.js'
import { ErrorResponse } from './response-schemas.js'

const MAX_NAME = 64
const MAX_PATH = 4_096
const MAX_METADATA = 16

const nullable = (schema: TSchema) => Type.Union([schema, Type.Null()])
const optionalNullable = <T extends TSchema>(schema: T) => Type.Optional(Type.Unsafe<Static<T> | null>(Type.Union([schema, Type.Null()])))
const free = (description: string) => Type.Unsafe<Record<string, unknown>>({ type: 'object', description, additionalProperties: true })
const paramsOf = (id: string) => Type.Object({ [id]: Type.String() })

export const FileParams = Type.Object({ file_id: Type.String() })
export const JobParams = Type.Object({ fine_tuning_job_id: Type.String() })
export const TrainParams = paramsOf('id')

/** Query values are text; limits are checked where they are read. */
const limit = Type.Optional(Type.String({ pattern: '^[0-9]{1,5}$' }))
const after = Type.Optional(Type.String({ maxLength: 128, description: 'The last id of the page before.' }))
export const PageQuery = Type.Object({ after, limit })
export const EventQuery = Type.Object({
  after, limit,
  stream: Type.Optional(Type.Enum(['true', 'false'], { description: 'Server-sent events from the first on, until the job ends.' })),
})
export const FileQuery = Type.Object({
  after, limit, purpose: Type.Optional(Type.String({ maxLength: 64 })), order: Type.Optional(Type.Enum(['asc', 'desc'])),
})

const metadata = optionalNullable(Type.Unsafe<Record<string, string>>({
  type: 'object', maxProperties: MAX_METADATA, propertyNames: { type: 'string', maxLength: 64 },
  additionalProperties: { type: 'string', maxLength: 512 },
}))

const data = (description: string) => Type.String({ minLength: 1, maxLength: MAX_PATH, description })

const Gate = Type.Object({
  data: data('Evaluation data: a file id, or a path under --train-root.'),
  database: optionalNullable(data('SQLite file for execution_accuracy: a file id, or a path under --train-root.')),
  metric: Type.Enum([...METRICS]),
  minimum: optionalNullable(Type.Number({ description: 'The least that passes (not for loss).' })),
  maximum: optionalNullable(Type.Number({ description: 'The most that passes (loss only).' })),
  not_worse_than_current: optionalNullable(Type.Boolean({ description: 'Default: true where no limit is given.' })),
  max_samples: optionalNullable(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
}, { additionalProperties: false, description: 'The result becomes current only if it is good enough.' })

export type GateBody = Static<typeof Gate>

const supervised = Type.Object({ hyperparameters: optionalNullable(free('OpenAI\'s, and any of PEFT\'s and TRL\'s by name.')) })
export const CreateJobRequest = Type.Object({
  model: Type.String({ minLength: 1, maxLength: 256, description: 'The base, or an adapter to go on from.' }),
  training_file: Type.String({ minLength: 1, maxLength: 128 }),
  validation_file: optionalNullable(Type.String({ maxLength: 128 })),
  suffix: optionalNullable(Type.String({ minLength: 1, maxLength: MAX_NAME, description: 'Name of the adapter.' })),
  seed: optionalNullable(Type.Integer({ minimum: 0, maximum: 2_147_483_647 })),
  method: optionalNullable(Type.Object({ type: Type.Optional(Type.String({ maxLength: 64 })), supervised: optionalNullable(supervised) })),
  hyperparameters: optionalNullable(free('The older place of method.supervised.hyperparameters.')),
  integrations: optionalNullable(Type.Array(free('Not supported: refused where one is named.'))),
  metadata,
  gate: optionalNullable(Gate),
}, { description: 'Further fields are hyper-parameters by their PEFT and TRL names (r, learning_rate, loss_on, ...).' })
export type CreateJobBody = Static<typeof CreateJobRequest> & Readonly<Record<string, unknown>>

export const TrainRequestBody = Type.Object({
  name: Type.String({ minLength: 1, maxLength: MAX_NAME, description: 'Name of the adapter.' }),
  data: data('Training data: a file id, or a path under --train-root.'),
  validation_data: optionalNullable(data('The same, to evaluate on.')),
  model: optionalNullable(Type.String({ minLength: 1, maxLength: 256, description: 'An adapter to go on from; absent = fresh.' })),
  metadata,
  gate: optionalNullable(Gate),
}, { description: 'Further fields are hyper-parameters by their PEFT and TRL names (preset, r, learning_rate, loss_on, ...).' })
export type TrainBody = Static<typeof TrainRequestBody> & Readonly<Record<string, unknown>>

const File = Type.Object({
  id: Type.String(), object: Type.Literal('file'), bytes: Type.Integer(), created_at: Type.Integer(), filename: Type.String(),
  purpose: Type.String(), status: Type.Literal('processed'), expires_at: Type.Optional(Type.Integer()), status_details: Type.Null(),
})
const JobErrorBody = Type.Object({ code: Type.String(), message: Type.String(), param: nullable(Type.String()) })
const Job = Type.Object({
  id: Type.String(), object: Type.Literal('fine_tuning.job'), created_at: Type.Integer(), finished_at: nullable(Type.Integer()),
  model: Type.String(), fine_tuned_model: nullable(Type.String()), organization_id: Type.String(), status: Type.Enum([...JOB_STATUSES]),
  hyperparameters: free('As asked for; numbers once the job has started.'), method: free('{type, supervised: {hyperparameters}}'),
  training_file: Type.String(), validation_file: nullable(Type.String()), result_files: Type.Array(Type.String()),
  trained_tokens: nullable(Type.Integer()), error: nullable(JobErrorBody), seed: Type.Integer(), integrations: Type.Array(Type.Unknown()),
  metadata: nullable(free('')), user_provided_suffix: nullable(Type.String()), estimated_finish: nullable(Type.Integer()),
  adapter: Type.Object({ name: Type.String(), version: nullable(Type.String()) }),
  progress: nullable(free('Of the last step that was told.')), evaluation: nullable(free('What the gate measured.')),
})
const Event = Type.Object({
  id: Type.String(), object: Type.Literal('fine_tuning.job.event'), created_at: Type.Integer(), level: Type.Enum(['info', 'warn', 'error']),
  message: Type.String(), type: Type.Enum(['message', 'metrics']), data: nullable(free('')),
})
const Checkpoint = Type.Object({
  id: Type.String(), object: Type.Literal('fine_tuning.job.checkpoint'), created_at: Type.Integer(),
  fine_tuned_model_checkpoint: nullable(Type.String({ description: 'Null until the job has succeeded, and where it is not kept.' })),
  fine_tuning_job_id: Type.String(), step_number: Type.Integer(), metrics: free(''),
})

const errors = { '4xx': ErrorResponse, '5xx': ErrorResponse }
const listOf = (item: TSchema) => Type.Object({
  object: Type.Literal('list'), data: Type.Array(item), has_more: Type.Boolean(), first_id: nullable(Type.String()),
  last_id: nullable(Type.String()),
})
const Deleted = Type.Object({ id: Type.String(), object: Type.String(), deleted: Type.Boolean() })

export const fileResponses = { 200: File, ...errors }
export const fileListResponses = { 200: listOf(File), ...errors }
export const jobResponses = { 200: Job, ...errors }
export const trainResponses = { 202: Job, ...errors }
export const jobListResponses = { 200: listOf(Job), ...errors }
export const eventListResponses = { 200: listOf(Event), ...errors }
export const checkpointListResponses = { 200: listOf(Checkpoint), ...errors }
export const deletedResponses = { 200: Deleted, ...errors }

const part = (description: string) => Type.Unsafe<string>({ type: 'string', format: 'binary', description })
export const FileForm = Type.Object({
  file: part('JSONL, CSV or Parquet for fine-tune; any for evals and user_data.'),
  purpose: Type.Enum(['fine-tune', 'evals', 'user_data']),
  'expires_after[anchor]': Type.Optional(Type.Enum(['created_at'])),
  'expires_after[seconds]': Type.Optional(Type.String({ description: '3600 to 2592000.' })),
})
