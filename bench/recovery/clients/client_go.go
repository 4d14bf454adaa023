// amqp091-go: the reconnecting client of the library's own example, with its delays.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const reconnectDelay = 5 * time.Second

func session(address, queue string) error {
	connection, err := amqp.Dial(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	closedChannel := channel.NotifyClose(make(chan *amqp.Error, 1))
	if err := channel.Confirm(false); err != nil {
		return err
	}
	if _, err := channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		return err
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	go func() {
		for delivery := range deliveries {
			delivery.Ack(false)
			fmt.Println("got", string(delivery.Body))
		}
	}()
	for {
		select {
		case err := <-closed:
			return err
		case err := <-closedChannel:
			return err
		case <-time.After(100 * time.Millisecond):
		}
		stamp := strconv.FormatFloat(float64(time.Now().UnixMilli())/1000, 'f', 3, 64)
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(stamp)}
		sent, err := channel.PublishWithDeferredConfirmWithContext(context.Background(), "", queue, false, false, message)
		if err != nil {
			return err
		}
		go func() {
			if sent.Wait() {
				fmt.Println("ok", stamp)
			}
		}()
	}
}

func main() {
	for {
		err := session("amqp://guest:guest@127.0.0.1:"+os.Args[1]+"/", os.Args[2])
		fmt.Println("fails", err)
		time.Sleep(reconnectDelay)
	}
}
