//! Calls of any method by its name: messages are known by their descriptors, so one piece of code serves every RPC.

use std::sync::OnceLock;

use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::caller::Credentials;
use super::raw::{Raw, client, path};

fn descriptors() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(keelson_server::proto::DESCRIPTORS).expect("descriptors"))
}

/// All methods of etcd's API.
pub fn methods() -> impl Iterator<Item = MethodDescriptor> {
    let services = descriptors().services().filter(|service| !service.package_name().starts_with("keelson"));
    services.flat_map(|service| service.methods().collect::<Vec<_>>())
}

/// The method of that name, `package.Service/Method`.
pub fn method(name: &str) -> MethodDescriptor {
    let (service, method) = name.split_once('/').expect("package.Service/Method");
    let service = descriptors().get_service_by_name(service).unwrap_or_else(|| panic!("no service {service}"));
    service.methods().find(|found| found.name() == method).unwrap_or_else(|| panic!("no method {name}"))
}

fn decode(method: &MethodDescriptor, bytes: Bytes) -> DynamicMessage {
    DynamicMessage::decode(method.output(), bytes).expect("an answer of the method's type")
}

fn request<T>(message: T, credentials: &Credentials) -> Request<T> {
    let mut request = Request::new(message);
    if let Some((key, token)) = credentials {
        request.metadata_mut().insert(*key, token.parse().expect("a token in ASCII"));
    }
    request
}

/// Sends one request; all answers, which is one unless the method streams them.
pub async fn call(
    channel: &Channel,
    method: &MethodDescriptor,
    message: &DynamicMessage,
    credentials: &Credentials,
) -> Result<Vec<DynamicMessage>, Status> {
    let request = request(Bytes::from(message.encode_to_vec()), credentials);
    let answers = client(channel).await?.server_streaming(request, path(method), Raw).await?;
    let answers = answers.into_inner().map(|answer| Ok(decode(method, answer?)));
    answers.collect::<Vec<_>>().await.into_iter().collect()
}

/// What a stream has answered so far; an error is its end.
pub type Answers = Vec<Result<DynamicMessage, Status>>;

/// A call whose answers come one by one.
pub struct Stream {
    /// None once all requests were sent.
    requests: Option<mpsc::UnboundedSender<Bytes>>,
    answers: watch::Receiver<Answers>,
}

impl Stream {
    /// Begins the call. etcd does not even answer that it began before the first answer, so that is not waited for.
    pub fn open(channel: &Channel, method: &MethodDescriptor, credentials: &Credentials) -> Self {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (sender, answers) = watch::channel(Vec::new());
        let outgoing = request(UnboundedReceiverStream::new(outgoing), credentials);
        tokio::spawn(listen(channel.clone(), method.clone(), outgoing, sender));
        Self { requests: Some(requests), answers }
    }

    /// Begins a call that has one request.
    pub fn ask(
        channel: &Channel,
        method: &MethodDescriptor,
        message: &DynamicMessage,
        credentials: &Credentials,
    ) -> Self {
        let stream = Self::open(channel, method, credentials);
        stream.send(message);
        Self { requests: None, ..stream }
    }

    /// Sends a request; that the stream has ended shows in the answers.
    pub fn send(&self, request: &DynamicMessage) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request.encode_to_vec().into());
        }
    }

    /// What was answered so far.
    pub fn answers(&self) -> Answers {
        self.answers.borrow().clone()
    }

    /// Waits until the answers are as wished or the stream has ended.
    pub async fn wait(&mut self, wished: impl Fn(&Answers) -> bool) {
        let ended = |answers: &Answers| answers.last().is_some_and(Result::is_err);
        // It fails when the listener is gone, behind an error.
        let _ = self.answers.wait_for(|answers| wished(answers) || ended(answers)).await;
    }
}

async fn listen(
    channel: Channel,
    method: MethodDescriptor,
    requests: Request<UnboundedReceiverStream<Bytes>>,
    answers: watch::Sender<Answers>,
) {
    let heard = async {
        let incoming = client(&channel).await?.streaming(requests, path(&method), Raw).await?;
        let mut incoming = incoming.into_inner();
        while let Some(answer) = incoming.message().await? {
            answers.send_modify(|answers| answers.push(Ok(decode(&method, answer))));
        }
        Err(Status::ok("the stream has ended"))
    };
    tokio::select! {
        heard = heard => {
            let Err(end): Result<(), Status> = heard else { return };
            answers.send_modify(|answers| answers.push(Err(end)));
        }
        // The call ends with the one who listens.
        () = answers.closed() => {}
    }
}
