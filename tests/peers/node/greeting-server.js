const WebSocket = require('ws');
const wss = new WebSocket.Server({ port: 8080 });
wss.on('connection', (ws) => {
  console.log('Новое соединение');
  ws.on('message', (message) => { console.log('Получено сообщение: ' + message); });
  ws.send('Добро пожаловать на сервер!');
});
