//! Two sessions, and bytes carried between them.

use proptest::prelude::*;

use super::*;

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn sessions(client_aes: bool, server_aes: bool) -> (TlsSession, TlsSession) {
    let (one, two) = (identity(1), identity(2));
    let client = TlsSession::client(&one, two.id(), client_aes);
    (client, TlsSession::server(&two, server_aes))
}

/// Carries what `from` has to say, in pieces of `cut` bytes; gives how many bytes it was.
fn carry(from: &mut TlsSession, to: &mut TlsSession, cut: usize) -> Result<usize, TlsError> {
    let mut stream = Vec::new();
    from.poll_bytes(&mut stream);
    stream
        .chunks(cut)
        .try_for_each(|piece| to.handle_bytes(piece))?;
    Ok(stream.len())
}

/// Until nobody has anything to say; gives the flights' sizes.
fn shake(
    client: &mut TlsSession,
    server: &mut TlsSession,
    cut: usize,
) -> Result<Vec<usize>, TlsError> {
    let mut flights = Vec::new();
    loop {
        let flight = [carry(client, server, cut)?, carry(server, client, cut)?];
        if flight == [0, 0] {
            return Ok(flights);
        }
        flights.extend(flight);
    }
}

fn said(session: &mut TlsSession) -> Vec<u8> {
    let mut plaintext = Vec::new();
    session.read(&mut plaintext);
    plaintext
}

#[test]
fn both_sides_agree_in_small_pieces() {
    let (mut client, mut server) = sessions(true, true);
    assert_eq!(client.export().err(), Some(TlsError::NotEstablished));
    client.write(b"said early").expect("room");
    shake(&mut client, &mut server, 97).expect("agreement");
    assert!(client.is_established() && server.is_established());
    assert_eq!(client.peer(), Some(identity(2).id()));
    assert_eq!(server.peer(), Some(identity(1).id()));
    assert_eq!(
        client.export().expect("established"),
        server.export().expect("established")
    );
    assert_eq!(said(&mut server), b"said early");
    server.write(b"answer").expect("room");
    carry(&mut server, &mut client, 97).expect("well formed");
    assert_eq!(said(&mut client), b"answer");
}

#[test]
fn each_session_has_its_own_secret() {
    let secrets = [(); 2].map(|()| {
        let (mut client, mut server) = sessions(true, true);
        shake(&mut client, &mut server, 1000).expect("agreement");
        client.export().expect("established")
    });
    assert_ne!(secrets[0], secrets[1]);
}

#[test]
fn aes_only_where_both_have_it_in_hardware() {
    for (client_aes, server_aes) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut client, mut server) = sessions(client_aes, server_aes);
        shake(&mut client, &mut server, 1000).expect("agreement");
        let expected = if client_aes && server_aes {
            Suite::Aes256Gcm
        } else {
            Suite::ChaCha20Poly1305
        };
        assert_eq!(
            (client.suite(), server.suite()),
            (Some(expected), Some(expected))
        );
    }
}

#[test]
fn a_wrong_key_is_refused_by_name_and_learns_nothing() {
    let (one, two, three) = (identity(1), identity(2), identity(3));
    let mut client = TlsSession::client(&one, three.id(), true);
    let mut server = TlsSession::server(&two, true);
    client.write(b"a secret").expect("room");
    let error = shake(&mut client, &mut server, 97).expect_err("not the one expected");
    assert_eq!(
        error,
        TlsError::WrongKey {
            expected: three.id(),
            shown: two.id()
        }
    );
    let text = error.to_string();
    assert!(
        text.contains(&three.id().to_string()) && text.contains(&two.id().to_string()),
        "{text}"
    );
    assert_eq!(
        carry(&mut client, &mut server, 97),
        Ok(0),
        "the client says no more"
    );
    assert!(!client.is_established() && !server.is_established());
    assert_eq!((client.peer(), server.peer()), (None, None));
    assert_eq!(client.export().err(), Some(TlsError::NotEstablished));
    assert_eq!(client.write(b"x"), Err(error.clone()));
    assert_eq!(client.handle_bytes(b"x"), Err(error));
}

#[test]
fn another_version_is_told_on_both_sides() {
    let (one, two) = (identity(1), identity(2));
    let config = client_config(&one, None, &[b"kuguri/2 aes-256-gcm"]);
    let connection = ClientConnection::new(Arc::new(config), no_name()).expect("valid");
    let mut client = TlsSession::new(connection.into(), Role::Client, Some(two.id()));
    let mut server = TlsSession::server(&two, true);
    assert_eq!(
        carry(&mut client, &mut server, 97),
        Err(TlsError::OtherVersion)
    );
    assert_eq!(
        carry(&mut server, &mut client, 97),
        Err(TlsError::OtherVersion),
        "by the alert"
    );
}

#[test]
fn a_peer_without_a_version_is_refused() {
    let (one, two) = (identity(1), identity(2));
    let mut client = TlsSession::client(&one, two.id(), true);
    let connection = ServerConnection::new(Arc::new(server_config(&two, &[]))).expect("valid");
    let mut server = TlsSession::new(connection.into(), Role::Server, None);
    assert_eq!(
        shake(&mut client, &mut server, 97),
        Err(TlsError::OtherVersion)
    );
}

#[test]
fn damage_is_refused_wherever_it_is() {
    let (mut client, _) = sessions(true, true);
    let mut hello = Vec::new();
    client.poll_bytes(&mut hello);
    for at in (0..hello.len()).step_by(7) {
        let (mut client, mut server) = sessions(true, true);
        let mut wrong = Vec::new();
        client.poll_bytes(&mut wrong);
        wrong[at] ^= 0x20;
        let refused = server.handle_bytes(&wrong).is_err()
            || carry(&mut server, &mut client, 1000).is_err()
            || carry(&mut client, &mut server, 1000).is_err();
        // A damaged length waits for bytes that never come.
        assert!(refused || !server.is_established(), "byte {at}");
    }
}

#[test]
fn a_damaged_record_ends_an_established_session() {
    let (mut client, mut server) = sessions(true, true);
    shake(&mut client, &mut server, 1000).expect("agreement");
    client.write(b"a message").expect("room");
    let mut stream = Vec::new();
    client.poll_bytes(&mut stream);
    let last = stream.len() - 1;
    stream[last] ^= 1;
    assert!(matches!(
        server.handle_bytes(&stream),
        Err(TlsError::Malformed(_))
    ));
    assert!(said(&mut server).is_empty());
    assert!(matches!(
        carry(&mut server, &mut client, 97),
        Err(TlsError::RefusedByPeer(_))
    ));
}

#[test]
fn buffers_are_bounded() {
    let (mut client, mut server) = sessions(true, true);
    let half = vec![7; MAX_BUFFERED / 2];
    assert_eq!(client.write(&half), Ok(()));
    assert_eq!(client.write(&half), Ok(()));
    assert_eq!(
        client.write(b"x"),
        Err(TlsError::Full),
        "before the handshake"
    );
    shake(&mut client, &mut server, 1000).expect("agreement");
    assert_eq!(said(&mut server).len(), MAX_BUFFERED);
    for _ in 0..2 {
        client.write(&half).expect("it has left");
        carry(&mut client, &mut server, 1000).expect("within the limit");
    }
    client.write(b"x").expect("room");
    assert_eq!(
        carry(&mut client, &mut server, 1000),
        Err(TlsError::Full),
        "nobody reads"
    );
}

#[test]
fn a_goodbye_ends_it_without_an_error() {
    let (mut client, mut server) = sessions(true, true);
    shake(&mut client, &mut server, 1000).expect("agreement");
    client.write(b"last words").expect("room");
    assert!(!server.is_closed());
    client.close();
    carry(&mut client, &mut server, 97).expect("well formed");
    assert_eq!(said(&mut server), b"last words");
    assert!(server.is_closed() && !client.is_closed());
    assert_eq!(server.handle_bytes(b"anything behind it"), Ok(()));
    assert!(said(&mut server).is_empty());
}

/// The ARQ must carry these; a datagram holds about 1,200 bytes.
#[test]
fn flights_fit_into_few_datagrams() {
    let (mut client, mut server) = sessions(true, true);
    let flights = shake(&mut client, &mut server, 1000).expect("agreement");
    let [hello, answer, finished, rest @ ..] = flights.as_slice() else {
        panic!("three flights");
    };
    assert!(
        *hello < 2 * 1200 && *answer < 2 * 1200 && *finished < 1200,
        "{flights:?}"
    );
    assert!(rest.iter().all(|flight| *flight == 0), "{flights:?}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, client_side: bool, record: bool) {
        let (mut client, mut server) = sessions(true, true);
        let session = if client_side { &mut client } else { &mut server };
        let header = [22, 3, 1, 0, u8::try_from(bytes.len()).unwrap_or(255)];
        let _ = session.handle_bytes(if record { &header } else { &[] });
        let _ = session.handle_bytes(&bytes);
        prop_assert!(!session.is_established());
    }

    #[test]
    fn words_arrive_whole_and_in_order(words: Vec<Vec<u8>>, cut in 1usize..3000) {
        let (mut client, mut server) = sessions(true, true);
        for word in &words {
            client.write(word).expect("room");
        }
        shake(&mut client, &mut server, cut).expect("agreement");
        prop_assert_eq!(said(&mut server), words.concat());
    }
}
