//! Mailboxes under every order of sends, receives and drops that the seeds find.

use super::{Outcome, SimDisk, SimOptions, SimWorld};
use crate::env::{Env, TaskClass};
use crate::mailbox::mailbox;
use crate::reply::{Disconnected, reply};

#[test]
fn two_tasks_exchange_ten_thousand_messages_through_one_place() {
    for seed in 0..5 {
        let world = SimWorld::new(SimOptions::with_seed(seed), SimDisk::new());
        let env = world.env();
        let (there, mut inbox) = mailbox::<u64>(1);
        let (back, mut answers) = mailbox::<u64>(1);
        env.spawn(TaskClass::Background, "echo", async move {
            while let Some(message) = inbox.recv().await {
                back.send(message + 1).await.unwrap();
            }
        });
        let outcome = world.run(async {
            for message in 0..10_000 {
                there.send(message).await.unwrap();
                assert_eq!(answers.recv().await, Some(message + 1));
            }
        });
        assert_eq!(outcome, Outcome::Done(()));
        drop(world.stop());
    }
}

#[test]
fn several_senders_fill_one_place_and_nothing_is_lost_or_reordered() {
    for seed in 0..50 {
        let world = SimWorld::new(SimOptions::with_seed(seed), SimDisk::new());
        let env = world.env();
        let (sender, mut receiver) = mailbox::<(usize, u64)>(1);
        for number in 0..4 {
            let sender = sender.clone();
            env.spawn(TaskClass::Foreground, "sender", async move {
                for message in 0..200 {
                    sender.send((number, message)).await.unwrap();
                }
            });
        }
        drop(sender);
        let outcome = world.run(async {
            let mut next = [0; 4];
            while let Some((number, message)) = receiver.recv().await {
                assert_eq!(message, next[number]);
                next[number] += 1;
            }
            next
        });
        assert_eq!(outcome, Outcome::Done([200; 4]));
        drop(world.stop());
    }
}

#[test]
fn a_receiver_that_goes_fails_the_senders_that_wait() {
    for seed in 0..50 {
        let world = SimWorld::new(SimOptions::with_seed(seed), SimDisk::new());
        let env = world.env();
        let (sender, mut receiver) = mailbox::<u64>(1);
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            let (tell, told) = reply();
            let sender = sender.clone();
            env.spawn(TaskClass::Foreground, "sender", async move {
                let mut sent = 0;
                while sender.send(sent).await == Ok(()) {
                    sent += 1;
                }
                tell.send(sent);
            });
            outcomes.push(told);
        }
        let outcome = world.run(async {
            for _ in 0..10 {
                receiver.recv().await.unwrap();
            }
            drop(receiver);
            let mut sent = 0;
            for told in outcomes {
                sent += told.await.unwrap();
            }
            assert_eq!(sender.send(0).await, Err(Disconnected));
            sent
        });
        // What the receiver took, and at most what the mailbox held.
        assert!(matches!(outcome, Outcome::Done(10..=11)), "{outcome:?}");
        drop(world.stop());
    }
}

#[test]
fn a_send_that_is_given_up_does_not_stop_the_others() {
    for seed in 0..50 {
        let world = SimWorld::new(SimOptions::with_seed(seed), SimDisk::new());
        let env = world.env();
        let (sender, mut receiver) = mailbox::<u64>(1);
        let impatient = (sender.clone(), env.clone());
        env.spawn(TaskClass::Foreground, "impatient", async move {
            for _ in 0..100 {
                let send = std::pin::pin!(impatient.0.send(0));
                let pause = std::pin::pin!(impatient.1.yield_now());
                futures_util::future::select(send, pause).await;
            }
        });
        env.spawn(TaskClass::Foreground, "patient", async move {
            for message in 1..=100 {
                sender.send(message).await.unwrap();
            }
        });
        let outcome = world.run(async {
            let mut received = Vec::new();
            while let Some(message) = receiver.recv().await {
                received.extend((message > 0).then_some(message));
            }
            received
        });
        assert_eq!(outcome, Outcome::Done((1..=100).collect()));
        drop(world.stop());
    }
}
