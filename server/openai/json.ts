// The one door for JSON from outside (HTTP bodies, WebSocket frames): UTF-8, depth, prototype poisoning, text that is no text.

import { ApiError } from '../errors.js'
import { LIMITS } from './limits.js'

const utf8 = new TextDecoder('utf-8', { fatal: true })
const LONE_SURROGATE = /\p{Surrogate}/u

/** @throws ApiError 400 invalid_utf8, invalid_json, json_too_deep, invalid_value. */
export function parseJson(bytes: Uint8Array): unknown {
  const value = parse(decode(bytes))
  check(value, '')
  return value
}

function decode(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes)
  } catch (cause) {
    throw new ApiError(400, 'invalid_utf8', 'The request body is not valid UTF-8.', { cause })
  }
}

function parse(text: string): unknown {
  if (nesting(text) > LIMITS.jsonDepth) {
    throw new ApiError(400, 'json_too_deep', `The request body nests deeper than ${LIMITS.jsonDepth} levels.`)
  }
  try {
    return JSON.parse(text)
  } catch {
    // The parser's own message quotes the body, which may hold a prompt.
    throw new ApiError(400, 'invalid_json', 'We could not parse the JSON body of your request.')
  }
}

/** Deepest nesting of brackets outside strings, before any parser recurses. */
function nesting(text: string): number {
  let depth = 0
  let deepest = 0
  for (let at = 0; at < text.length; at++) {
    const c = text.charCodeAt(at)
    if (c === 0x22) at = endOfString(text, at)
    else if (c === 0x5b || c === 0x7b) deepest = Math.max(deepest, ++depth)
    else if (c === 0x5d || c === 0x7d) depth--
  }
  return deepest
}

/** Index of the closing quote of the string that opens at `start`; the end of the text when it never closes. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end !== -1; end = text.indexOf('"', end + 1)) {
    let slashes = 0
    while (text.charCodeAt(end - 1 - slashes) === 0x5c) slashes++
    if (slashes % 2 === 0) return end
  }
  return text.length
}

/** Recursion is bounded by the nesting checked before. */
function check(value: unknown, path: string): void {
  if (typeof value === 'string') return checkText(value, path)
  if (typeof value !== 'object' || value === null) return
  if (Array.isArray(value)) return value.forEach((item, i) => check(item, `${path}[${i}]`))
  for (const key of Object.keys(value)) {
    const item = (value as Record<string, unknown>)[key]
    if (poisons(key, item)) throw new ApiError(400, 'invalid_json', `The key '${key}' is not allowed.`)
    checkText(key, path)
    check(item, path === '' ? key : `${path}.${key}`)
  }
}

/** The same rule as fastify's own parser, which WebSocket frames do not pass through. */
function poisons(key: string, item: unknown): boolean {
  if (key === '__proto__') return true
  return key === 'constructor' && typeof item === 'object' && item !== null && Object.hasOwn(item, 'prototype')
}

function checkText(text: string, path: string): void {
  const param = path === '' ? null : path
  if (text.includes('\0')) throw new ApiError(400, 'invalid_value', `'${path}' contains a NUL character.`, { param })
  if (LONE_SURROGATE.test(text)) throw new ApiError(400, 'invalid_value', `'${path}' contains half of a surrogate pair.`, { param })
}
