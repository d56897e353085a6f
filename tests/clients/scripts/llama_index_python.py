from typing import Any

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.clients.inputs import DIMENSIONS, DOCUMENTS, EMBEDDER, QUERY, RERANKER, TEXTS, TOP_N
from tests.clients.scripts.calls import KEY, URL, Calls, report

nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(DOCUMENTS)]


def reranked(postprocessor: Any) -> Any:
    kept = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    return [[int(node.node.node_id), node.score] for node in kept]


like = Calls("llama-index-embeddings-openai-like")
common: Any = {"model_name": EMBEDDER, "api_base": f"{URL}/v1", "api_key": KEY, "embed_batch_size": 3}
embedder = OpenAILikeEmbedding(**common)
shortened = OpenAILikeEmbedding(**common, dimensions=DIMENSIONS)
like("OpenAILikeEmbedding", "vectors", embedder.get_text_embedding_batch, TEXTS)
like("OpenAILikeEmbedding", "first", lambda: [embedder.get_query_embedding(TEXTS[0])])
like("OpenAILikeEmbedding", "shortened", shortened.get_text_embedding_batch, TEXTS)

tei = Calls("llama-index-embeddings-text-embeddings-inference")
inference = TextEmbeddingsInference(model_name=EMBEDDER, base_url=URL, auth_token=KEY)
tei("TextEmbeddingsInference", "vectors", inference.get_text_embedding_batch, TEXTS)

cohere = Calls("llama-index-postprocessor-cohere-rerank")
cohere_rerank = CohereRerank(base_url=URL, api_key=KEY, model=RERANKER, top_n=TOP_N, max_retries=1)
cohere("CohereRerank", "top", reranked, cohere_rerank)

jina = Calls("llama-index-postprocessor-jinaai-rerank")
jina_rerank = JinaRerank(base_url=f"{URL}/v1", api_key=KEY, model=RERANKER, top_n=TOP_N)
jina("JinaRerank", "top", reranked, jina_rerank)

tei_rerank = Calls("llama-index-postprocessor-tei-rerank")
tei_reranker = TextEmbeddingInference(base_url=URL, top_n=TOP_N, auth_token=f"Bearer {KEY}")
tei_rerank("TextEmbeddingInference", "top", reranked, tei_reranker)

report(like, tei, cohere, jina, tei_rerank)
