//! Sources of keys and proofs, against a server that plays those of AWS.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use reqwest::Url;
use serde_json::Value;

use super::source::{Container, WebIdentity};
use super::*;

const KEYS: &str = r#"{"Code":"Success","AccessKeyId":"ASIA","SecretAccessKey":"SECRET",
    "Token":"SESSION","Expiration":"2100-01-01T00:00:00Z"}"#;

const ASSUMED: &str = "<AssumeRoleWithWebIdentityResponse><AccessKeyId>ASIA</AccessKeyId>\
    <SecretAccessKey>SECRET</SecretAccessKey><SessionToken>SESSION</SessionToken>\
    <Expiration>2100-01-01T00:00:00Z</Expiration></AssumeRoleWithWebIdentityResponse>";

/// A server that gives these answers, one a connection. Its thread returns the requests.
fn server(answers: Vec<(u16, &'static str)>) -> (Url, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let serving = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                assert!(read > 0, "the request ends too early");
                request.extend_from_slice(&piece[..read]);
            }
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n");
            let answer = format!("{head}connection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
            requests.push(String::from_utf8(request).unwrap());
        }
        requests
    });
    (address, serving)
}

/// Whether a request has all of its body.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    body.len() >= length.unwrap_or(0)
}

fn sts(address: &str) -> Sts {
    Sts::new("us-east-1".to_owned(), address.parse().unwrap())
}

/// A service that nobody asks for keys.
fn unused() -> Sts {
    sts("http://127.0.0.1:1")
}

/// The headers of the signed request in a proof.
fn headers(proof: &Proof) -> Value {
    use base64::Engine as _;

    let encoded = proof.0["iam_request_headers"].as_str().unwrap();
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    serde_json::from_slice(&decoded).unwrap()
}

#[tokio::test]
async fn keys_of_an_instance_are_asked_for_once_and_again_after_a_refusal() {
    let role: [(u16, &str); 3] = [(200, "session"), (200, "reloader\n"), (200, KEYS)];
    let (address, serving) = server([role, role].concat());
    let aws = Aws::iam(unused(), None, Source::Instance(Instance::new(address)));
    let files = Files::default();
    for _ in 0..3 {
        let proof = aws.clone().prove(&files).await.unwrap();
        assert_eq!(headers(&proof)["X-Amz-Security-Token"], "SESSION");
    }
    aws.forget().await;
    aws.prove(&files).await.unwrap();
    assert!(!format!("{aws:?}").contains("SE"), "{aws:?}");
    let requests = serving.join().unwrap();
    assert!(requests[0].starts_with("PUT /latest/api/token "), "{}", requests[0]);
    assert!(requests[0].contains("x-aws-ec2-metadata-token-ttl-seconds: 60"), "{}", requests[0]);
    let path = "GET /latest/meta-data/iam/security-credentials/reloader ";
    assert!(requests[2].starts_with(path), "{}", requests[2]);
    assert!(requests[2].contains("x-aws-ec2-metadata-token: session"), "{}", requests[2]);
}

#[tokio::test]
async fn an_instance_without_a_role_is_said() {
    for (answers, expected) in [
        (vec![(403, "")], "status 403; allow pods to use IMDSv2"),
        (vec![(200, "session"), (404, "")], "no IAM role is attached to the instance"),
        (vec![(200, "session"), (200, "../../x")], "no IAM role is attached to the instance"),
        (vec![(200, "session"), (200, "r"), (200, "{}")], "gives no keys for the role r"),
    ] {
        let (address, serving) = server(answers);
        let aws = Aws::iam(unused(), None, Source::Instance(Instance::new(address)));
        let error = aws.prove(&Files::default()).await.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        serving.join().unwrap();
    }
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_keys_and_its_token_is_in_no_error() {
    let (address, serving) = server(vec![
        (403, "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"),
        (200, ASSUMED),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let identity = |token: PathBuf| {
        let (role, session) = ("arn:aws:iam::1:role/a".to_owned(), "reloader".to_owned());
        Source::WebIdentity(WebIdentity { role, session, token })
    };
    let aws = Aws::iam(sts(address.as_str()), Some("vault".to_owned()), identity(token.clone()));
    let files = Files::default();
    let error = aws.prove(&files).await.err().unwrap().to_string();
    assert!(error.starts_with("cannot read the web identity token file "), "{error}");
    std::fs::write(token, "eyJSECRET\n").unwrap();
    let error = aws.prove(&files).await.err().unwrap().to_string();
    assert!(error.contains("refuses the role arn:aws:iam::1:role/a (status 403, AccessDenied)"));
    assert!(!error.contains("SECRET"), "{error}");
    let proof = aws.prove(&files).await.unwrap();
    assert_eq!(headers(&proof)["X-Vault-AWS-IAM-Server-ID"], "vault");
    let requests = serving.join().unwrap();
    let body = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1\
                %3Arole%2Fa&RoleSessionName=reloader&WebIdentityToken=eyJSECRET";
    assert!(requests[1].ends_with(body), "{}", requests[1]);
}

#[tokio::test]
async fn a_containers_server_is_asked_with_its_token() {
    let (address, serving) = server(vec![(200, KEYS), (200, "{}"), (401, "SECRET")]);
    let address = address.join("/v1/credentials?id=1").unwrap();
    let authorization = Some(Credential::Text("token".into()));
    let source = Source::Container(Container { address, authorization });
    let aws = Aws::iam(unused(), None, source);
    let files = Files::default();
    aws.prove(&files).await.unwrap();
    for expected in ["its answer contains no keys", "answers with the status 401"] {
        aws.forget().await;
        let error = aws.prove(&files).await.err().unwrap().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
    let requests = serving.join().unwrap();
    assert!(requests[0].starts_with("GET /v1/credentials?id=1 "), "{}", requests[0]);
    assert!(requests[0].contains("authorization: token"), "{}", requests[0]);
}

#[tokio::test]
async fn an_instance_proves_itself_by_its_document_and_the_same_nonce_each_time() {
    let document: [(u16, &str); 2] = [(200, "session"), (200, "MIIB\nAgEA\n")];
    let (address, serving) = server([document; 3].concat());
    let random = Aws::ec2(Instance::new(address.clone()), None);
    assert!(random.has_random_nonce());
    let files = Files::default();
    let first = random.prove(&files).await.unwrap();
    let second = random.clone().prove(&files).await.unwrap();
    assert_eq!(first.0["pkcs7"], "MIIBAgEA");
    assert_eq!(first.0["nonce"], second.0["nonce"]);
    assert_eq!(first.0["nonce"].as_str().unwrap().len(), 36);
    let given = Aws::ec2(Instance::new(address), Some(Credential::Text("nonce".into())));
    assert_eq!(given.prove(&files).await.unwrap().0["nonce"], "nonce");
    assert!(!given.has_random_nonce());
    assert_eq!(serving.join().unwrap().len(), 6);
}

#[tokio::test]
async fn a_credential_that_was_replaced_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credential");
    let (address, files) = ("http://127.0.0.1:1".parse::<Url>().unwrap(), Files::default());
    let role = "arn:aws:iam::123456789012:role/reloader".to_owned();
    let identity = WebIdentity { role, session: "s".to_owned(), token: file.clone() };
    let instance = Instance::new(address);
    for aws in [
        Aws::ec2(instance.clone(), Some(Credential::File(file.clone()))),
        Aws::iam(unused(), None, Source::WebIdentity(identity)),
    ] {
        for text in ["one", "two"] {
            std::fs::write(&file, text).unwrap();
            let present = aws.credential(&files).await.unwrap();
            assert_eq!(present.expose_secret(), text);
        }
    }
    assert!(Aws::ec2(instance.clone(), None).credential(&files).await.is_none());
    let of_instance = Aws::iam(unused(), None, Source::Instance(instance));
    assert!(of_instance.credential(&files).await.is_none());
}
