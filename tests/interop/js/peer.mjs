// A js-libp2p peer that is told what to do: a JSON command a line on stdin, its JSON answer a line on stdout.
//   {"op": "dial", "address": "..."}                    -> {"security": "/noise", "muxer": "/yamux/1.0.0"}
//   {"op": "identify", "address": "..."}                -> {"agent": "...", "protocols": [...]}
//   {"op": "ping", "address": "..."}                    -> {"ms": 1}
//   {"op": "echo", "address": "...", "bytes": 300000}   -> {"same": true, "got": 300000}
// The first line it prints says where it listens. It ends with its stdin.
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/weft/echo/1'

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})

// It asks every peer by itself as soon as they are connected, and refuses to ask a second time meanwhile.
const identified = new Map()
node.addEventListener('peer:identify', ({ detail }) => identified.set(String(detail.peerId), detail))

const bytesOf = chunk => chunk.subarray()

await node.handle(ECHO, async stream => {
  for await (const chunk of stream) {
    if (!stream.send(bytesOf(chunk))) await stream.onDrain()
  }
  await stream.close()
})

const operations = {
  async dial ({ address }) {
    const connection = await node.dial(multiaddr(address))
    return { security: connection.encryption, muxer: connection.multiplexer }
  },
  async identify ({ address }) {
    const { remotePeer } = await node.dial(multiaddr(address))
    while (!identified.has(String(remotePeer))) await setTimeout(10)
    const told = identified.get(String(remotePeer))
    return { agent: told.agentVersion, protocols: told.protocols, observed: String(told.observedAddr) }
  },
  async ping ({ address }) {
    return { ms: await node.services.ping.ping(multiaddr(address)) }
  },
  async echo ({ address, bytes }) {
    const sent = Buffer.from(Array.from({ length: bytes }, (_, at) => (at * 31) & 255))
    const stream = await node.dialProtocol(multiaddr(address), ECHO)
    const got = []
    const reading = (async () => {
      for await (const chunk of stream) got.push(Buffer.from(bytesOf(chunk)))
    })()
    for (let at = 0; at < bytes; at += 65536) {
      if (!stream.send(sent.subarray(at, at + 65536))) await stream.onDrain()
    }
    await stream.close()
    await reading
    const back = Buffer.concat(got)
    return { same: back.equals(sent), got: back.length }
  }
}

const say = answer => console.log(JSON.stringify(answer))

say({ peer: String(node.peerId), address: String(node.getMultiaddrs()[0]) })
for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...parameters } = JSON.parse(line)
  try {
    say(await operations[op](parameters))
  } catch (error) {
    say({ error: String(error.stack ?? error) })
  }
}
await node.stop()
process.exit(0)
