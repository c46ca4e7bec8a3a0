// The gateway's job in Node: look up the key, inflate, decode strictly, publish to Kafka with acks=all, answer.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import { gunzipSync } from 'node:zlib'
import './promises.js'
import { ProduceAcks, Producer } from '@platformatic/kafka'
import { isBatch } from './wire.js'

const BODY_MAX = 1 << 20
const INFLATED_MAX = 8 << 20
// The client sends every call as a request of its own; what arrives in one moment goes out together.
const LINGER_MS = 2

const hashed = text => createHash('sha256').update(text).digest('base64')
const apps = new Map([[hashed(process.env.APP_KEY), 'bench']])
const topic = process.env.TOPIC
const producer = new Producer({
  clientId: 'bench',
  bootstrapBrokers: process.env.BOOTSTRAP.split(','),
  acks: ProduceAcks.ALL,
  idempotent: false,
  retries: 3
})

let waiting = []

function publish (message) {
  return new Promise((resolve, reject) => {
    if (waiting.push({ message, resolve, reject }) === 1) setTimeout(flush, LINGER_MS)
  })
}

async function flush () {
  const group = waiting
  waiting = []
  try {
    await producer.send({ messages: group.map(each => each.message) })
    for (const each of group) each.resolve()
  } catch (error) {
    for (const each of group) each.reject(error)
  }
}

function decoded (body) {
  try {
    const batch = JSON.parse(gunzipSync(body, { maxOutputLength: INFLATED_MAX }).toString())
    return isBatch(batch) ? batch : null
  } catch {
    return null
  }
}

async function ingest (request, response, body) {
  const app = apps.get(hashed((request.headers.authorization ?? '').replace(/^Bearer /, '')))
  if (app === undefined) return response.writeHead(401).end()
  const batch = decoded(body)
  if (batch === null) return response.writeHead(400).end()
  const now = Date.now()
  const headers = new Map([
    ['app', app], ['content-encoding', 'gzip'], ['received_at', `${now}`], ['gateway', 'bench'],
    ['batch', batch.batch], ['events', `${batch.events.length}`]
  ].map(([name, value]) => [Buffer.from(name), Buffer.from(value)]))
  try {
    await publish({ topic, key: Buffer.from(batch.device), value: body, headers })
  } catch {
    return response.writeHead(503).end()
  }
  const flush = { events: 50, seconds: 300, lease_seconds: 21600 }
  const reply = JSON.stringify({ batch: batch.batch, accepted: batch.events.length, server_time: now, flush })
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(reply) }).end(reply)
}

createServer((request, response) => {
  const chunks = []
  let bytes = 0
  request.on('data', chunk => {
    bytes += chunk.length
    if (bytes > BODY_MAX) return response.writeHead(413).end()
    chunks.push(chunk)
  })
  request.on('end', () => ingest(request, response, chunks.length === 1 ? chunks[0] : Buffer.concat(chunks)))
}).listen(Number(process.env.PORT), '127.0.0.1')
