// The WebSocket protocol of GET /v1/chat/completions, as clients read it and as types.

import type { ChatChunk } from '../openai/chat-response.js'
import type { ErrorBody } from '../errors.js'

export const WEBSOCKET_PROTOCOL = `## WebSocket: GET /v1/chat/completions

One socket carries many chats at once, told apart by an \`id\` that the client chooses (a string of 1 to 128 characters, unique among the
chats in flight on this socket). Every message is one JSON text frame of at most 64 KiB.

| client sends | meaning |
| --- | --- |
| \`{"id": ID, ...chat completion body}\` | starts a chat; \`"type": "request"\` may be added, \`stream\` is implied |
| \`{"type": "cancel", "id": ID}\` | stops it; answered by its \`error\` with code \`request_cancelled\` |
| \`{"type": "ping"}\` | answered by \`{"type": "pong"}\` |

| server sends | meaning |
| --- | --- |
| \`{"type": "chunk", "id": ID, "chunk": CHUNK}\` | a chat.completion.chunk, as in the streamed HTTP answer |
| \`{"type": "done", "id": ID}\` | the answer is complete; the id may be used again |
| \`{"type": "error", "id": ID or null, "error": ERROR}\` | the chat failed (\`id\`), or a message could not be read (null) |

Keys go into the Authorization header, or, from a browser, into the subprotocol \`openai-insecure-api-key.KEY\` beside \`lorikeet\`.
The server pings every 15 s and drops a socket that misses two. On shutdown it closes with 1001 once the socket's chats are done,
with 1012 when they could not finish in time.`

/** A message of a client after JSON and before its body is checked. */
export interface ClientMessage {
  readonly type?: unknown
  readonly id?: unknown
}

export type ServerMessage =
  | { readonly type: 'chunk'; readonly id: string; readonly chunk: ChatChunk }
  | { readonly type: 'done'; readonly id: string }
  | { readonly type: 'error'; readonly id: string | null; readonly error: ErrorBody['error'] }
  | { readonly type: 'pong' }
