// Node's ws.
import { WebSocketServer } from 'ws'

const [, address] = process.argv.slice(2)
const [host, port] = address.split(':')
const level = process.env.ECHO_LEVEL
const perMessageDeflate = level !== undefined && {
  zlibDeflateOptions: { level: Number(level) },
  serverNoContextTakeover: true,
  clientNoContextTakeover: true,
  threshold: 0,
}
const server = new WebSocketServer({ host, port: Number(port), perMessageDeflate })
server.on('connection', (socket) => {
  socket.on('error', () => {})
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }))
})
