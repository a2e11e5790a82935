// GET /v1/chat/completions as a WebSocket: registration and the sockets that are open. One socket's life is in chat-socket.ts.

import websocket from '@fastify/websocket'
import type { FastifyInstance } from 'fastify'
import type { ServerContext } from '../context.js'
import { ApiError } from '../errors.js'
import { LIMITS } from '../openai/limits.js'
import { ChatCompletionRequest } from '../openai/schemas.js'
import { ChatSocket, type BodyCheck, type RawSocket } from './chat-socket.js'

/** Close codes of RFC 6455 and its registry. */
const CLOSE = { goingAway: 1001, policy: 1008, restart: 1012 } as const

/** The open sockets of one server. */
export class SocketRegistry {
  readonly #sockets = new Set<ChatSocket>()

  get size(): number {
    return this.#sockets.size
  }

  add(socket: ChatSocket): void {
    this.#sockets.add(socket)
  }

  delete(socket: ChatSocket): void {
    this.#sockets.delete(socket)
  }

  /** Idle sockets close now, the others with their last chat. */
  drain(): void {
    for (const socket of this.#sockets) socket.closeWhenIdle(CLOSE.goingAway)
  }

  closeAll(): void {
    for (const socket of this.#sockets) socket.close(CLOSE.restart)
  }

  closeKey(keyId: string): void {
    for (const socket of this.#sockets) if (socket.keyId === keyId) socket.close(CLOSE.policy)
  }
}

/** Before any hook that may refuse a request: only then is the socket of a refused upgrade closed. */
export async function registerUpgrades(app: FastifyInstance): Promise<void> {
  await app.register(websocket, {
    options: { maxPayload: LIMITS.wsFrameBytes, maxFragments: LIMITS.wsFragments, perMessageDeflate: false } as object,
  })
}

export function registerWebSocket(app: FastifyInstance, context: ServerContext): void {
  app.route({
    method: 'GET',
    url: '/v1/chat/completions',
    config: { scope: 'infer' },
    schema: {
      operationId: 'chatWebSocket', summary: 'Chat completions over a WebSocket', tags: ['inference'],
      description: 'See the description at the top.',
    },
    handler: async () => {
      throw new ApiError(
        426, 'upgrade_required', 'Use POST, or open a WebSocket here.', { headers: { upgrade: 'websocket', connection: 'upgrade' } },
      )
    },
    wsHandler: (socket, request) => {
      const check = request.compileValidationSchema(ChatCompletionRequest) as unknown as BodyCheck
      const chat = new ChatSocket(context, socket as unknown as RawSocket, { key: request.apiKey, check, log: request.log })
      context.sockets.add(chat)
      context.metrics.webSockets.set(context.sockets.size)
      socket.on('close', () => {
        context.sockets.delete(chat)
        context.metrics.webSockets.set(context.sockets.size)
      })
    },
  })
}
