const socket = new WebSocket('ws://example.com/socket');
socket.onopen = () => { console.log('Соединение открыто'); };
socket.onmessage = (event) => { console.log('Получено сообщение: ' + event.data); };
socket.onclose = () => { console.log('Соединение закрыто'); };
socket.onerror = (error) => { console.log('Ошибка: ' + error.message); };
socket.close(1000, 'Завершаю соединение');
