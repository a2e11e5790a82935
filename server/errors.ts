// Every error that leaves over HTTP: one table from engine codes to statuses, one body in OpenAI's shape.

import { EngineError, type EngineErrorCode } from '../engine/errors.js'

export interface ErrorBody {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string | null }
}

export interface ApiErrorDetails {
  readonly param?: string | null
  readonly headers?: Readonly<Record<string, string>>
  readonly cause?: unknown
}

/** An error whose message is meant for the client. */
export class ApiError extends Error {
  readonly status: number
  readonly code: string
  readonly param: string | null
  readonly headers: Readonly<Record<string, string>>

  constructor(status: number, code: string, message: string, details: ApiErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'ApiError'
    this.status = status
    this.code = code
    this.param = details.param ?? null
    this.headers = details.headers ?? {}
  }

  get body(): ErrorBody {
    return { error: { message: this.message, type: errorType(this.status), param: this.param, code: this.code } }
  }
}

/** `said: false` keeps the engine's own words out of the answer: they may hold addresses or paths. */
interface EngineErrorRow {
  readonly status: number
  readonly code: string
  readonly said?: false
}

const ENGINE_ERRORS: Readonly<Record<EngineErrorCode, EngineErrorRow>> = {
  INVALID_REQUEST: { status: 400, code: 'invalid_value' },
  CONTEXT_LENGTH_EXCEEDED: { status: 400, code: 'context_length_exceeded' },
  TEXT_WITHOUT_TOKENIZER: { status: 400, code: 'text_without_tokenizer' },
  INVALID_CONVERSATION: { status: 400, code: 'invalid_conversation' },
  UNKNOWN_MODEL: { status: 404, code: 'model_not_found' },
  QUARANTINED: { status: 422, code: 'quarantined' },
  QUEUE_FULL: { status: 429, code: 'queue_full' },
  ADAPTER_SLOTS_BUSY: { status: 429, code: 'adapter_slots_busy' },
  OUT_OF_MEMORY: { status: 503, code: 'out_of_memory' },
  MODEL_NOT_FOUND: { status: 404, code: 'model_not_found' },
  MODEL_INVALID: { status: 400, code: 'model_invalid' },
  FILE_INVALID: { status: 400, code: 'file_invalid' },
  UNSUPPORTED: { status: 400, code: 'unsupported' },
  ADAPTER_NOT_FOUND: { status: 404, code: 'adapter_not_found' },
  ADAPTER_INVALID: { status: 400, code: 'adapter_invalid' },
  ADAPTER_RANK_TOO_LARGE: { status: 400, code: 'adapter_rank_too_large' },
  ADAPTER_EXISTS: { status: 400, code: 'adapter_exists' },
  DATA_INVALID: { status: 400, code: 'data_invalid' },
  TRAINING_BUSY: { status: 429, code: 'training_busy' },
  TRAINING_DIVERGED: { status: 422, code: 'training_diverged' },
  DISK_FULL: { status: 507, code: 'disk_full' },
  ENGINE_RESTARTED: { status: 503, code: 'engine_restarted' },
  ENGINE_UNAVAILABLE: { status: 503, code: 'engine_unavailable' },
  ABORTED: { status: 499, code: 'request_aborted' },
  CUDA_NOT_BUILT: { status: 500, code: 'cuda_not_built' },
  CUDA_ERROR: { status: 500, code: 'cuda_error', said: false },
  DEVICE_LOST: { status: 503, code: 'device_lost', said: false },
  SHAPE_MISMATCH: { status: 500, code: 'internal_error', said: false },
  INTERNAL: { status: 500, code: 'internal_error', said: false },
}

/** Statuses with which "try again" makes sense get Retry-After, this many seconds when the engine names no time. */
const RETRY_AFTER_S = 1

/** Whatever was thrown, as what the client may see. Unknown errors become a 500 that says nothing of the inside. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error
  if (error instanceof EngineError) return fromEngine(error)
  return fromFastify(error as FastifyErrorLike)
}

function fromEngine(error: EngineError): ApiError {
  const row = ENGINE_ERRORS[error.code] ?? ENGINE_ERRORS.INTERNAL
  const message = row.said === false ? 'The engine failed on this request; the server log has the details.' : error.message
  const retry = row.status === 429 || row.status === 503 ? retryHeaders(error.retryAfterMs ?? RETRY_AFTER_S * 1000) : {}
  const param = error.param ?? (error.code === 'UNKNOWN_MODEL' ? 'model' : null)
  return new ApiError(row.status, row.code, message, { param, headers: retry, cause: error })
}

/** Whole seconds for everyone, milliseconds for the OpenAI clients. */
export function retryHeaders(afterMs: number): Record<string, string> {
  return { 'retry-after': String(Math.max(1, Math.ceil(afterMs / 1000))), 'retry-after-ms': String(Math.max(1, Math.ceil(afterMs))) }
}

interface FastifyErrorLike {
  readonly code?: string
  readonly statusCode?: number
  readonly message?: string
  readonly validation?: readonly ValidationIssue[]
}

export interface ValidationIssue {
  readonly keyword: string
  readonly instancePath: string
  readonly message?: string
  readonly params: Readonly<Record<string, unknown>>
}

const FASTIFY_ERRORS: Readonly<Record<string, [status: number, code: string, message: string]>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: [413, 'request_too_large', 'The request body is larger than this server allows.'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [415, 'unsupported_media_type', 'Send the body as Content-Type: application/json.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: [400, 'invalid_content_length', 'The body is not as long as Content-Length says.'],
  FST_ERR_BAD_URL: [400, 'invalid_url', 'The URL cannot be decoded.'],
  FST_ERR_MAX_PARAM_LENGTH: [414, 'url_too_long', 'A part of the URL is too long.'],
}

function fromFastify(error: FastifyErrorLike): ApiError {
  if (error.validation?.length) return fromValidation(error.validation)
  const known = FASTIFY_ERRORS[error.code ?? '']
  if (known !== undefined) return new ApiError(...known, { cause: error })
  const status = error.statusCode ?? 500
  if (status >= 400 && status < 500) return new ApiError(status, 'invalid_request', error.message ?? 'Bad request', { cause: error })
  return new ApiError(500, 'internal_error', 'The server failed on this request; its log has the details.', { cause: error })
}

/** OpenAI's names for what Ajv's keywords find. */
const VALIDATION_CODES: Readonly<Record<string, string>> = {
  type: 'invalid_type',
  anyOf: 'invalid_type',
  required: 'missing_required_parameter',
  minimum: 'integer_below_min_value',
  exclusiveMinimum: 'decimal_below_min_value',
  maximum: 'integer_above_max_value',
  exclusiveMaximum: 'decimal_above_max_value',
  minLength: 'string_below_min_length',
  maxLength: 'string_above_max_length',
  minItems: 'array_below_min_length',
  maxItems: 'array_above_max_length',
  maxProperties: 'object_above_max_properties',
  pattern: 'invalid_value',
  additionalProperties: 'unknown_parameter',
}

/** The issue that says most: in a union, that of the branch that got furthest into the value. */
export function fromValidation(issues: readonly ValidationIssue[]): ApiError {
  const best = issues.reduce((a, b) => (compareReach(a, b) >= 0 ? a : b))
  const union = issues.find((issue) => issue.keyword === 'anyOf' && issue.instancePath === best.instancePath)
  const issue = union !== undefined && isVague(best) ? union : best
  const param = paramName(issue)
  const code = VALIDATION_CODES[issue.keyword] ?? 'invalid_value'
  return new ApiError(400, code, validationMessage(issue, param, issues), { param })
}

/** By how exact the complaint is, then by depth, then by position in an array. */
function compareReach(a: ValidationIssue, b: ValidationIssue): number {
  const reach = (issue: ValidationIssue) => {
    const path = issue.instancePath.split('/')
    return [isVague(issue) ? 0 : 1, path.length, Number(path.at(-1)) || 0]
  }
  const [x, y] = [reach(a), reach(b)]
  return x[0]! - y[0]! || x[1]! - y[1]! || x[2]! - y[2]!
}

const isVague = ({ keyword }: ValidationIssue): boolean => keyword === 'type' || keyword === 'const' || keyword === 'anyOf'

/** "/messages/0/content" as OpenAI writes it: "messages[0].content". */
function paramName(issue: ValidationIssue): string | null {
  const parts = issue.instancePath.split('/').slice(1).map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
  if (issue.keyword === 'required') parts.push(String(issue.params['missingProperty']))
  return parts.length === 0 ? null : parts.reduce(
    (name, part) => (/^\d+$/.test(part) ? `${name}[${part}]` : name === '' ? part : `${name}.${part}`), '',
  )
}

function validationMessage(issue: ValidationIssue, param: string | null, issues: readonly ValidationIssue[]): string {
  if (issue.keyword === 'required') return `Missing required parameter: '${param}'.`
  const where = param === null ? 'The request body' : `'${param}'`
  if (issue.keyword === 'anyOf') {
    const branches = issues.filter(({ keyword, instancePath }) => keyword === 'type' && instancePath === issue.instancePath)
    return `${where} must be one of: ${[...new Set(branches.map((branch) => String(branch.params['type'])))].join(', ')}.`
  }
  if (issue.keyword === 'enum') return `${where} must be one of: ${(issue.params['allowedValues'] as unknown[]).map(String).join(', ')}.`
  return `${where} ${issue.message ?? 'is not valid'}.`
}

function errorType(status: number): string {
  if (status === 401) return 'authentication_error'
  if (status === 403) return 'permission_error'
  if (status === 429) return 'rate_limit_error'
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}
